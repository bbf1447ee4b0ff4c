"""Check a step: accumulated gradients, the moving average, the best weights, the early end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import RECIPE

from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.models.storage import load_model
from cir_rt.export.train.examples import Examples
from cir_rt.export.train.inputs import Inputs
from cir_rt.export.train.learner import Learner
from cir_rt.export.train.state import Place
from cir_rt.export.train.systems import stages_of
from cir_rt.export.train.trainer import Step, Trainer


def test_several_batches_make_one_step_of_their_mean(fresh: Checkpoint) -> None:
    ends = []
    for parts in ([1.0, 3.0], [2.0]):
        model = load_model(fresh)
        learner = Learner(model, RECIPE)
        weight = model.text.project.weight
        batches = ({"a": (c * weight).sum() * 1e-3, "b": (weight**2).mean()} for c in parts)
        told = learner.step(0.5, batches)
        assert told["a"] == pytest.approx(
            2e-3 * float(load_model(fresh).text.project.weight.sum().detach())
        )
        ends.append(weight.detach().clone())
    assert torch.allclose(ends[0], ends[1], atol=1e-7)


def test_the_average_follows_faster_while_it_is_young(fresh: Checkpoint) -> None:
    model = load_model(fresh)
    learner = Learner(model, replace(RECIPE, average=0.6))
    name = "text.project.weight"
    expected = model.state_dict()[name].clone()
    for k in range(1, 12):
        learner.step(0.5, [{"loss": (model.text.project.weight**2).sum()}])
        decay = min(0.6, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * model.state_dict()[name]
    last = model.state_dict()[name].clone()
    with learner.averaged() as model:
        assert torch.allclose(model.state_dict()[name], expected, atol=1e-6)
        assert not model.training
    assert torch.equal(model.state_dict()[name], last)
    learner.settle()
    assert torch.allclose(model.state_dict()[name], expected, atol=1e-6)


def scored(
    fresh: Checkpoint, few: Examples, scores: list[float], patience: int
) -> tuple[list[Step], Place, list[torch.Tensor], torch.Tensor]:
    """Train with made-up scores; return the weights at each validation and at the end."""
    recipe = replace(RECIPE, validate=1, patience=patience)
    model = load_model(fresh)
    given, seen, steps = iter(scores), [], []

    def validate(current: torch.nn.Module) -> float:
        seen.append(current.state_dict()["text.project.weight"].clone())
        return next(given)

    stages = stages_of(model, Inputs(model, few, recipe), recipe)
    place = Trainer(model, recipe, validate=validate).run(
        stages, epochs=len(scores), progress=steps.append
    )
    return steps, place, seen, model.state_dict()["text.project.weight"]


def test_the_best_validation_is_kept(fresh: Checkpoint, few: Examples) -> None:
    steps, place, seen, kept = scored(fresh, few, [1.0, 5.0, 2.0, 3.0], patience=0)
    assert place.score == 5.0
    assert torch.equal(kept, seen[1])
    assert not torch.equal(kept, seen[3])
    assert [step.score for step in steps if step.score is not None] == [1.0, 5.0, 2.0, 3.0]


def test_a_stage_ends_when_nothing_gets_better(fresh: Checkpoint, few: Examples) -> None:
    steps, place, seen, kept = scored(fresh, few, [4.0, 5.0, 2.0, 3.0, 6.0], patience=2)
    assert len(seen) == 4
    assert place.score == 5.0
    assert torch.equal(kept, seen[1])
    assert np.isfinite([step.seconds_left for step in steps[1:]]).all()
