"""The checkpoint folder: config.json, model.safetensors, tokenizer.json, calibration/; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cir_rt.config import from_dict, to_dict
from cir_rt.errors import CheckpointError
from cir_rt.preprocess import Preprocess
from cir_rt.text import Tokenizer

FORMAT = 1
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
ENGINES = {  # of the systems that bundles serve; `compose` is else small weights
    "progressive": ("image", "text"),
    "limn": ("image", "text", "compose"),
}
CALIBRATION = "calibration"  # a small dataset of training pictures and queries, `triplets` layout
RERANKER = "reranker"  # in a graphs folder: the graphs folder of a re-ranker


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """A tower by kind (`cir_rt.export.models.storage.TOWERS`) and that kind's own settings."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that fixes a model's shape and its inputs."""

    format: int = FORMAT
    system: str = "progressive"
    dim: int = 256  # of a gallery's vectors
    image: TowerSpec
    text: TowerSpec
    composer: Mapping[str, Any] = field(default_factory=dict)  # the system's own settings
    context: int = 48  # most tokens that the text tower reads
    pad_id: int = 0
    temperature: float = 1.0  # of the composition's softmax
    preprocess: Preprocess = field(default_factory=Preprocess)
    weights_sha256: str = ""  # of model.safetensors

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format} is not the format {FORMAT} read here")

    def tokenizer(self, path: Path) -> Tokenizer:
        """Open a tokenizer.json with the model's context."""
        return Tokenizer(path, context=self.context, pad_id=self.pad_id)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with a trained model."""

    folder: Path
    config: ModelConfig

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.folder / WEIGHTS

    def tokenizer(self) -> Tokenizer:
        """Open the tokenizer with the model's context."""
        return self.config.tokenizer(self.folder / TOKENIZER)


def is_checkpoint(folder: Path) -> bool:
    """Tell whether the folder looks like a checkpoint of cir-rt."""
    return (folder / CONFIG).exists() and (folder / WEIGHTS).exists()


def hugging_face_kind(folder: Path) -> str | None:
    """Return "clip" or "blip" for a Hugging Face checkpoint of that kind, else None."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = values.get("model_type") if isinstance(values, dict) else None
    return kind if kind in ("clip", "blip") else None


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint's configuration. Raises CheckpointError where a file is missing."""
    folder = Path(folder)
    missing = [n for n in (CONFIG, WEIGHTS, TOKENIZER) if not (folder / n).exists()]
    if missing:
        raise CheckpointError(
            f"{folder}: not a cir-rt checkpoint, {', '.join(missing)} missing. "
            "Expected the folder that `cir-rt train … --out` wrote."
        )
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: not readable as JSON ({error}).") from error
    return Checkpoint(folder=folder, config=from_dict(ModelConfig, values, CONFIG))


def write_config(config: ModelConfig, folder: Path) -> None:
    """Write config.json into the folder."""
    text = json.dumps(to_dict(config), indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
