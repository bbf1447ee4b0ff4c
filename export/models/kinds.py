"""Towers by kind."""

from __future__ import annotations

import importlib
from typing import Any

from cir_rt.config import from_dict
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import TowerSpec

# kind -> (module, configuration class, tower class)
TOWERS = {
    "conv": ("cir_rt.export.models.towers", "ConvTowerConfig", "ConvTower"),
    "transformer": ("cir_rt.export.models.towers", "TextTowerConfig", "TextTower"),
    "clip-image": ("cir_rt.export.models.clip", "ClipConfig", "ClipImageTower"),
    "clip-text": ("cir_rt.export.models.clip", "ClipConfig", "ClipTextTower"),
    "blip-image": ("cir_rt.export.models.blip", "BlipImageConfig", "BlipImageTower"),
    "grounded-text": ("cir_rt.export.models.prune", "PruneConfig", "Prune"),
}


def build_tower(spec: TowerSpec) -> Any:
    """Build a tower with fresh weights. Raises ConfigError, CheckpointError for an unknown kind."""
    if spec.kind not in TOWERS:
        raise CheckpointError(f"no tower of kind '{spec.kind}'. Known: {', '.join(TOWERS)}.")
    module_name, config_name, tower_name = TOWERS[spec.kind]
    module = importlib.import_module(module_name)
    settings: Any = from_dict(getattr(module, config_name), spec.settings, spec.kind)
    return getattr(module, tower_name)(settings)
