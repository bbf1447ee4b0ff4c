"""PyTorch models by configuration, and their way to and from disk."""

from __future__ import annotations

import importlib
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cir_rt.bundle import sha256
from cir_rt.config import from_dict
from cir_rt.errors import BackendMissing, CheckpointError
from cir_rt.export.checkpoint import (
    TOKENIZER,
    WEIGHTS,
    Checkpoint,
    ModelConfig,
    TowerSpec,
    write_config,
)
from cir_rt.export.models.progressive import WeightedComposition

# kind -> (module, configuration class, tower class)
TOWERS = {
    "conv": ("cir_rt.export.models.towers", "ConvTowerConfig", "ConvTower"),
    "transformer": ("cir_rt.export.models.towers", "TextTowerConfig", "TextTower"),
    "clip-image": ("cir_rt.export.models.clip", "ClipConfig", "ClipImageTower"),
    "clip-text": ("cir_rt.export.models.clip", "ClipConfig", "ClipTextTower"),
}


class CirModel(nn.Module):
    """Image tower, text tower and composition, with the contrastive loss's own scale."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image = build_tower(config.image)
        self.text = build_tower(config.text)
        self.compose = WeightedComposition(config.dim, config.temperature)
        self.log_scale = nn.Parameter(torch.tensor(math.log(14.0)))

    @property
    def scale(self) -> Tensor:
        """The logits' scale, at most 100 as in CLIP."""
        return self.log_scale.exp().clamp(max=100.0)


def check_device(device: str) -> None:
    """Raise BackendMissing where PyTorch cannot compute on the device."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendMissing(f"device '{device}': PyTorch sees no GPU here. Use --device cpu.")


def build_tower(spec: TowerSpec) -> nn.Module:
    """Build a tower with fresh weights. Raises ConfigError, CheckpointError for an unknown kind."""
    if spec.kind not in TOWERS:
        raise CheckpointError(f"no tower of kind '{spec.kind}'. Known: {', '.join(TOWERS)}.")
    module_name, config_name, tower_name = TOWERS[spec.kind]
    module = importlib.import_module(module_name)
    settings: Any = from_dict(getattr(module, config_name), spec.settings, spec.kind)
    return getattr(module, tower_name)(settings)


def load_model(checkpoint: Checkpoint) -> CirModel:
    """Build the checkpoint's model with its weights, in FP32 and evaluation mode."""
    model = CirModel(checkpoint.config)
    try:
        state = {k: v.float() for k, v in load_file(checkpoint.weights).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.weights}: does not fit config.json ({error})."
        ) from error
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(
            f"{checkpoint.weights}: does not fit config.json; "
            f"missing {missing[:3]}, unexpected {unexpected[:3]}."
        )
    return model.eval()


def save_model(
    model: CirModel, tokenizer: Path, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write config.json, model.safetensors in `dtype`, and a copy of the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for graph in folder.glob("*.onnx"):  # they point into the weights that are replaced
        graph.unlink()
    state = {
        k: v.detach().to("cpu", dtype).contiguous()
        for k, v in model.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    save_file(state, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors keeps it to its owner
    if tokenizer.resolve() != (folder / TOKENIZER).resolve():
        shutil.copyfile(tokenizer, folder / TOKENIZER)
    write_config(replace(model.config, weights_sha256=sha256(folder / WEIGHTS)), folder)
