"""An interrupted run ends with the weights of one that was left alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from small_models import RECIPE, small
from torch import Tensor

from cir_rt.errors import CheckpointError, UsageError
from cir_rt.export.checkpoint import open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.models.storage import load_model
from cir_rt.export.train import state
from cir_rt.export.train.recipes import Limn, Recipe
from cir_rt.export.train.run import STATE, train
from cir_rt.export.train.trainer import Step

# Every part of the state counts: stages, dropout, a moving average, several batches a step, the
# best validation.
PROGRESSIVE = replace(
    RECIPE,
    image=replace(RECIPE.image, settings={**RECIPE.image.settings, "dropout": 0.2}),
    image_text=0.3,
    domain=0.3,
    accumulate=2,
    average=0.9,
    validate=1,
)
LIMN = small(
    Limn,
    learning_rate=1e-3,
    composer={"factors": 3, "width": 16, "heads": 2, "token_width": 8, "match_width": 4},
)


class Interrupted(Exception):
    """Stands for a power cut."""


def weights(folder: Path) -> dict[str, Tensor]:
    return load_model(open_checkpoint(folder)).state_dict()


@pytest.mark.parametrize("recipe", [PROGRESSIVE, LIMN], ids=["progressive", "limn"])
def test_an_interrupted_run_ends_alike(
    drawn: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: Recipe,
) -> None:
    small = replace(drawn, splits={"train": drawn.splits["val"], "val": drawn.splits["val"]})
    whole: list[Step] = []
    train(small, tmp_path / "whole", recipe, epochs=2, seed=5, progress=whole.append)
    assert {step.stage for step in whole} >= ({"domain"} if recipe is PROGRESSIVE else {"limn"})
    monkeypatch.setattr(state.StateFile, "is_due", lambda self: True)

    def stop_at(cut: int, step: Step) -> None:
        if step.steps == cut:
            raise Interrupted

    again: list[Step] = []
    last = len(whole) - 1
    for number, cut in enumerate((1, 1 + last // 2, last)):
        with pytest.raises(Interrupted):
            train(
                small,
                tmp_path / "cut",
                recipe,
                epochs=2,
                seed=5,
                resume=number > 0,
                progress=partial(stop_at, cut),
            )
    torch.manual_seed(999)  # a new process has another state
    train(small, tmp_path / "cut", recipe, epochs=2, seed=5, resume=True, progress=again.append)
    assert [step.steps for step in again] == [step.steps for step in whole][last:]
    assert [step.losses for step in again] == [step.losses for step in whole][last:]
    expected, got = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name
    assert not (tmp_path / "cut" / STATE).exists()


def test_there_must_be_something_to_resume(drawn: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no interrupted run"):
        train(drawn, tmp_path, RECIPE, epochs=1, resume=True)


def test_another_run_is_not_resumed(
    drawn: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(step: Step) -> None:
        raise Interrupted

    monkeypatch.setattr(state.StateFile, "is_due", lambda self: True)
    with pytest.raises(Interrupted):
        train(drawn, tmp_path, RECIPE, epochs=1, progress=stop)
    with pytest.raises(UsageError, match="differs in seed"):
        train(drawn, tmp_path, RECIPE, epochs=1, seed=1, resume=True)
    (tmp_path / STATE).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not readable"):
        train(drawn, tmp_path, RECIPE, epochs=1, resume=True)
