"""Training rows through the towers: pictures augmented, each text once, half precision."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor

from cir_rt.config import from_dict
from cir_rt.errors import ConfigError
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.systems import CirModel
from cir_rt.export.train.augment import Augment
from cir_rt.export.train.chance import Chance
from cir_rt.export.train.examples import Examples
from cir_rt.export.train.recipes import Recipe

READ = 64  # pictures together, where a tower reads all of them once


class Inputs:
    """Reads rows of the examples with a model's towers."""

    def __init__(self, model: CirModel, examples: Examples, recipe: Recipe) -> None:
        """Raises ConfigError for `read_once` where pictures change from one batch to the next."""
        if recipe.read_once and (recipe.augment or not recipe.frozen):
            raise ConfigError(
                "read_once keeps what a frozen tower read of a picture. Leave augment out and set "
                "frozen = true, or leave read_once out."
            )
        self.model = model
        self.read_once = recipe.read_once
        self._kept: Encoded | None = None
        self.examples = examples
        self.augment: Augment = from_dict(Augment, recipe.augment, "augment")

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    def pictures(self, rows: np.ndarray, chance: Chance) -> Encoded:
        """Read pictures, each changed in its own way; no gradient where the tower is frozen.

        With `read_once` they are as they are, and read the first time only.
        """
        if not self.read_once:
            return self._read(self.augment(self._pixels(rows), chance.noise))
        if self._kept is None:
            every = np.arange(len(self.examples.pixels))
            parts = np.array_split(every, 1 + len(every) // READ)
            self._kept = Encoded.joined([self._read(self._pixels(part)) for part in parts])
        return self._kept[torch.from_numpy(rows).to(self.device)]

    def _pixels(self, rows: np.ndarray) -> Tensor:
        values = self.model.config.preprocess.normalise(self.examples.pixels[rows])
        return torch.from_numpy(values).to(self.device)

    def _read(self, pictures: Tensor) -> Encoded:
        learns = any(p.requires_grad for p in self.model.image.parameters())
        with (
            torch.set_grad_enabled(learns),
            half_precision(self.device),
        ):  # the towers alone: logits need every bit
            return self.model.image.read(pictures.contiguous(memory_format=torch.channels_last))

    def texts(self, rows: np.ndarray) -> Encoded:
        """Read texts; repeated rows are read once."""
        unique, back = np.unique(rows, return_inverse=True)
        with half_precision(self.device):
            encoded = self.model.text.read(self.ids(unique))
        return encoded[torch.from_numpy(back).to(self.device)]

    def ids(self, rows: np.ndarray) -> Tensor:
        """Return token ids, cut to the longest of the rows, (rows, length) int64."""
        return torch.from_numpy(self.examples.tokens(rows, self.model.config.pad_id)).to(
            self.device
        )


def half_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Autocast to bfloat16 where the device takes it."""
    if device.type == "cpu" and not _computes_bf16():
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _computes_bf16() -> bool:
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())
