"""The card beside a checkpoint: what it is, what it learnt from, how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cir_rt.config import to_dict
from cir_rt.export.train.recipes import Recipe
from cir_rt.machine import environment

if TYPE_CHECKING:
    from cir_rt.export.train.run import Trained

CARD = "README.md"


def write_card(trained: Trained, recipe: Recipe, run: Mapping[str, Any]) -> None:
    """Write README.md into the checkpoint folder."""
    fresh = to_dict(type(recipe)())
    changed = {k: v for k, v in to_dict(recipe).items() if v != fresh[k]}
    facts = {
        "system": recipe.system,
        "dataset": f"{run['dataset']}, {run['queries']} training queries",
        "parameters": ", ".join(f"{k} {v:,}" for k, v in trained.parameters.items()),
        "started from": run["start"],
        "length": f"{trained.steps} steps, {trained.seconds / 60:.1f} minutes",
        "seed": run["seed"],
        "validation": "none" if trained.score is None else f"mean recall {trained.score:.2f}",
        "machine": json.dumps(environment()),
    }
    lines = [f"# {recipe.system}, a checkpoint of cir-rt", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "Settings of the recipe that are not its own:", "", "```json"]
    lines += [json.dumps(changed, indent=2), "```", ""]
    lines += ["Recall:  `cir-rt evaluate CKPT --data DATA`", ""]
    (trained.folder / CARD).write_text("\n".join(lines), encoding="utf-8")
