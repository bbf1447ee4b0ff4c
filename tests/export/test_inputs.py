"""Check that a frozen tower may read each picture once, and what that rules out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import RECIPE

from cir_rt.errors import ConfigError
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.models.storage import load_model
from cir_rt.export.train.chance import chance
from cir_rt.export.train.examples import Examples
from cir_rt.export.train.inputs import Inputs, half_precision

ONCE = replace(RECIPE, augment={}, frozen=True, read_once=True)


def test_pictures_read_once_are_those_that_the_tower_reads(
    fresh: Checkpoint, few: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(fresh)
    model.image.requires_grad_(False)
    tower, read = model.image, []

    def counted(pixels: torch.Tensor) -> object:
        read.append(len(pixels))
        return type(tower).read(tower, pixels)

    monkeypatch.setattr(tower, "read", counted)
    inputs = Inputs(model, few, ONCE)
    rows = np.asarray([3, 0, len(few.pixels) - 1, 3])
    first, again = (inputs.pictures(rows, chance(seed)) for seed in (0, 1))
    assert sum(read) == len(few.pixels)
    pixels = torch.from_numpy(model.config.preprocess.normalise(few.pixels[rows]))
    with torch.inference_mode(), half_precision(torch.device("cpu")):
        expected = type(tower).read(tower, pixels)
    for found in (first, again):
        torch.testing.assert_close(found.tokens, expected.tokens, rtol=0.02, atol=0.02)
        torch.testing.assert_close(found.vectors, expected.vectors, rtol=0.02, atol=0.02)
    assert not first.tokens.requires_grad
    torch.testing.assert_close(first.tokens[0], first.tokens[3], rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"augment": {"zoom": 0.1}}, {"frozen": False}])
def test_pictures_that_change_are_not_read_once(few: Examples, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="read_once"):
        Inputs(None, few, replace(ONCE, **change))
