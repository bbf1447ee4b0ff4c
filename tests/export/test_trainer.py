"""Check the training loop: what it learns, when it stops, what it repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import RECIPE, untrained

from cir_rt.errors import ConfigError
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.evaluate import evaluate
from cir_rt.export.models.encoder import open_encoder
from cir_rt.export.models.storage import load_model
from cir_rt.export.models.systems import CirModel
from cir_rt.export.train.batches import Links
from cir_rt.export.train.examples import Examples
from cir_rt.export.train.inputs import Inputs
from cir_rt.export.train.learner import Learner
from cir_rt.export.train.recipes import Progressive
from cir_rt.export.train.run import train
from cir_rt.export.train.state import Place
from cir_rt.export.train.systems import stages_of
from cir_rt.export.train.trainer import Step, Trainer


def run(
    model: CirModel,
    few: Examples,
    recipe: Progressive = RECIPE,
    *,
    seed: int = 0,
    **length: Any,
) -> Place:
    stages = stages_of(model, Inputs(model, few, recipe), recipe)
    return Trainer(model, recipe, seed=seed).run(stages, **length)


def trained(
    fresh: Checkpoint, few: Examples, *, seed: int = 0, recipe: Progressive = RECIPE
) -> dict[str, torch.Tensor]:
    model = load_model(fresh)
    run(model, few, recipe, seed=seed, epochs=1)
    return model.state_dict()


def test_the_seed_fixes_the_weights(fresh: Checkpoint, few: Examples) -> None:
    first, again, other = (trained(fresh, few, seed=seed) for seed in (3, 3, 4))
    before = load_model(fresh).state_dict()
    name = "text.project.weight"
    assert not torch.equal(first[name], before[name])
    assert not torch.equal(first[name], other[name])
    for key, tensor in first.items():
        assert torch.equal(tensor, again[key]), key


def test_training_learns(
    drawn: Dataset, checkpoint: Checkpoint, fresh: Checkpoint, few: Examples
) -> None:
    steps: list[Step] = []
    run(load_model(fresh), few, RECIPE, epochs=6, progress=steps.append)
    first, last = (sum(step.losses.values()) for step in (steps[0], steps[-1]))
    assert set(steps[0].losses) == {"retrieval", "weighting", "titles"}
    assert last < 0.9 * first
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    split = drawn.split("val")
    before, after = (evaluate(open_encoder(c), drawn, split) for c in (fresh, checkpoint))
    assert after.recall["R@10"] > before.recall["R@10"] + 5


def test_the_result_is_left_in_evaluation_mode(fresh: Checkpoint, few: Examples) -> None:
    model = load_model(fresh)
    run(model, few, RECIPE, epochs=1)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("epochs", [1, 2])
def test_epochs_are_counted(fresh: Checkpoint, few: Examples, epochs: int) -> None:
    whole = {"pictures": len(few.pixels), "queries": len(few.captions)}  # one batch an epoch
    recipe = replace(RECIPE, **whole)
    steps: list[Step] = []
    place = run(load_model(fresh), few, recipe, epochs=epochs, progress=steps.append)
    assert [step.epoch for step in steps] == list(range(epochs))
    assert (place.epoch, place.steps) == (epochs, epochs)


def test_minutes_are_a_bound(
    fresh: Checkpoint, few: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10_000, 10))
    clock = SimpleNamespace(perf_counter=lambda: next(seconds))
    monkeypatch.setattr("cir_rt.export.train.trainer.time", clock)
    steps: list[Step] = []
    run(load_model(fresh), few, RECIPE, minutes=1, progress=steps.append)
    assert [step.seconds for step in steps] == [10, 20, 30, 40, 50]
    assert [step.done for step in steps] == pytest.approx([k / 6 for k in range(1, 6)])


def test_no_query_is_an_error_not_an_endless_loop(fresh: Checkpoint, few: Examples) -> None:
    """Reference and target always lie in different batches of one picture."""
    recipe = replace(RECIPE, pictures=1)
    alone = Links(reference=np.array([0]), targets=(np.array([1]),), pictures=2)
    examples = replace(few, links=alone, captions=few.captions[:1], phrases=few.phrases[:2])
    with pytest.raises(ConfigError, match="pictures"):
        run(load_model(fresh), examples, recipe, epochs=1)


@pytest.mark.parametrize("pretrained", [False, True])
def test_pretrained_towers_take_their_own_rate(
    fresh: Checkpoint, few: Examples, pretrained: bool
) -> None:
    model = load_model(fresh)
    model.pretrained = frozenset({"image", "text"} if pretrained else ())
    learner = Learner(model, RECIPE)
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in learner.optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        tower = pretrained and not name.startswith(("compose.", "log_scale"))
        rate, decay = rates[id(parameter)]
        assert rate == (RECIPE.tower_learning_rate if tower else RECIPE.learning_rate), name
        assert decay == (RECIPE.weight_decay if parameter.ndim > 1 else 0), name


def test_the_rate_rises_then_falls_to_nothing(fresh: Checkpoint) -> None:
    model = load_model(fresh)
    learner = Learner(model, replace(RECIPE, warmup=0.25))
    seen = []
    for done in (0.125, 0.25, 0.625, 1.0):
        learner.step(done, [{"loss": model.log_scale}])
        seen.append(learner.rate / RECIPE.learning_rate)
    assert seen == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_unwanted_losses_are_left_out(fresh: Checkpoint, few: Examples) -> None:
    steps: list[Step] = []
    recipe = replace(RECIPE, titles=0.0, weighting=0.0)
    run(load_model(fresh), few, recipe, epochs=1, progress=steps.append)
    assert set(steps[0].losses) == {"retrieval"}


def test_an_unknown_augmentation_names_the_nearest(fresh: Checkpoint, few: Examples) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'flip'"):
        run(load_model(fresh), few, replace(RECIPE, augment={"flipp": 1.0}))


def test_training_goes_on_from_a_checkpoint(
    drawn: Dataset, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    result = train(drawn, tmp_path / "next", RECIPE, init=checkpoint.folder, epochs=1)
    after = open_checkpoint(result.folder)
    unsigned = [replace(c.config, weights_sha256="") for c in (after, checkpoint)]
    assert unsigned[0] == unsigned[1]
    assert (after.folder / "tokenizer.json").read_bytes() == (
        checkpoint.folder / "tokenizer.json"
    ).read_bytes()
    old, new = load_model(checkpoint).state_dict(), load_model(after).state_dict()
    moved = (new["text.project.weight"] - old["text.project.weight"]).abs().max()
    gate = (new["compose.gate.weight"] - old["compose.gate.weight"]).abs().max()
    assert 0 < moved < gate


def test_training_may_go_on_in_its_own_folder(drawn: Dataset, tmp_path: Path) -> None:
    untrained(tmp_path)
    train(drawn, tmp_path, RECIPE, init=tmp_path, epochs=1)
    load_model(open_checkpoint(tmp_path))


def test_a_failed_run_leaves_the_old_checkpoint(drawn: Dataset, tmp_path: Path) -> None:
    untrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    broken = replace(drawn, folder=tmp_path / "nowhere")
    with pytest.raises(Exception, match="missing"):
        train(broken, tmp_path, RECIPE, epochs=1)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def test_counts_of_parameters_are_reported(checkpoint: Checkpoint, drawn: Dataset) -> None:
    model = load_model(checkpoint)
    assert sum(p.numel() for p in model.compose.parameters()) == 2 * 32 * 32 + 32 + 2 * 32 + 2
    assert (checkpoint.folder / "calibration").is_dir()
