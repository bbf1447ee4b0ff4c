"""Hugging Face folders: weights and tokenizer, configuration as plain values, preprocessing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from cir_rt.errors import CheckpointError
from cir_rt.preprocess import Preprocess

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, where the folder names none
STD = (0.26862954, 0.26130258, 0.27577711)


def open_folder(
    kind: type[PreTrainedModel], folder: Path, tokenizer: Path
) -> tuple[PreTrainedModel, Any]:
    """Return the folder's model and tokenizer, and write the latter to `tokenizer` as JSON.

    Raises CheckpointError where the folder does not load, or lacks weights of this kind of model.
    """
    with _quiet():
        model, told, pieces = _loaded(kind, folder)
    missing = sorted(told["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: no whole {kind.__name__}, {len(missing)} weights are missing: "
            f"{', '.join(missing[:3])}, …"
        )
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    pieces.backend_tokenizer.save(str(tokenizer))
    return model, pieces


def _loaded(
    kind: type[PreTrainedModel], folder: Path
) -> tuple[PreTrainedModel, dict[str, Any], Any]:
    try:
        model, told = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        pieces = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: transformers cannot load it ({error}).") from error
    return model, told, pieces


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars off stderr: what is missing is told as an error here."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def plain_values(config: PretrainedConfig) -> dict[str, Any]:
    """Return what sets a configuration apart from its class's own, as JSON holds it."""
    known = type(config)().to_dict()
    own = config.to_diff_dict() if hasattr(config, "to_diff_dict") else config.to_dict()
    return {k: v for k, v in own.items() if k in known and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) and not isinstance(value, torch.dtype)


def read_preprocess(folder: Path, size: int, fit: str = "crop") -> Preprocess:
    """Return the preprocessing to `size` with the folder's mean and deviation."""
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    mean, std = values.get("image_mean", MEAN), values.get("image_std", STD)
    return Preprocess(size=size, fit=fit, mean=tuple(mean), std=tuple(std))
