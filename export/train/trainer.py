"""The training loop of every recipe."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cir_rt.export.models.systems import CirModel
from cir_rt.export.train.chance import chance
from cir_rt.export.train.learner import Learner
from cir_rt.export.train.objectives import Objective
from cir_rt.export.train.recipes import Recipe
from cir_rt.export.train.state import Place, StateFile


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a run, with a learning-rate cycle of its own."""

    name: str
    objective: Objective
    share: float  # of the run


@dataclass(frozen=True, kw_only=True)
class Length:
    """When a stage ends: after epochs, or when its minutes are over."""

    epochs: int
    begins: float = 0.0  # seconds of the run
    seconds: float | None = None

    def done(self, epochs: float, seconds: float) -> float:
        """Return the share that is over."""
        if self.seconds is None:
            return epochs / self.epochs
        return (seconds - self.begins) / self.seconds


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the caller's progress sees after each step."""

    done: float  # share of the run, 0 to 1
    stage: str
    epoch: int  # of the stage
    steps: int  # of the run so far, with this one
    seconds: float
    rate: float  # the learning rate of fresh layers
    losses: Mapping[str, float]
    score: float | None = None  # of a validation after this step

    @property
    def seconds_left(self) -> float:
        """What the rest takes at the pace so far."""
        return self.seconds * (1 - self.done) / self.done if self.done else math.inf


class Trainer:
    """Trains a model stage by stage for a number of epochs, or until minutes are over.

    Every step draws from generators that its place seeds, so that a run resumed from its state
    file ends with the weights of one that was never interrupted. With `minutes` it is the clock
    that decides how far a run comes, and no state repeats that.
    """

    def __init__(
        self,
        model: CirModel,
        recipe: Recipe,
        *,
        seed: int = 0,
        state: StateFile | None = None,
        validate: Callable[[CirModel], float] | None = None,
    ) -> None:
        """`validate` scores the model, higher is better, as often as the recipe says."""
        self.model = model
        self.recipe = recipe
        self.seed = seed
        self.state = state
        self.validate = validate if recipe.validate else None
        self.place = Place()

    def run(
        self,
        stages: Sequence[Stage],
        *,
        epochs: int | None = None,
        minutes: float | None = None,
        resume: bool = False,
        progress: Callable[[Step], None] | None = None,
    ) -> Place:
        """Train, leave the kept weights in the model, and return how far the run came.

        The learning rate follows the share of a stage that is over: of its part of `minutes`
        where they are given, of its part of `epochs` (the recipe's unless said) otherwise.
        """
        tensors: dict[str, Tensor] = {}
        if resume and self.state:
            self.place, tensors = self.state.load()
        start = time.perf_counter() - self.place.seconds
        before = sum(stage.share for stage in stages[: self.place.stage])
        for stage in stages[self.place.stage :]:
            learner = Learner(self.model, self.recipe)
            if tensors:
                learner.load(tensors)
            length = Length(
                epochs=max(1, round(stage.share * (epochs or self.recipe.epochs))),
                begins=60 * before * (minutes or 0),
                seconds=60 * stage.share * minutes if minutes else None,
            )
            for step in self._steps(stage, learner, length, start):
                if progress:
                    progress(replace(step, done=before + stage.share * step.done))
            learner.settle()
            before, tensors = before + stage.share, {}
            ended = self.place
            self.place = Place(stage=ended.stage + 1, steps=ended.steps, seconds=ended.seconds)
        return ended

    def _steps(
        self, stage: Stage, learner: Learner, length: Length, start: float
    ) -> Iterator[Step]:
        """Take the stage's steps from `place` on."""
        while not (self.recipe.patience and self.place.stale >= self.recipe.patience):
            number, epoch = self.place.stage, self.place.epoch
            objective, size = stage.objective, self.recipe.accumulate
            batches = objective.batches(chance(self.seed, number, epoch).rng)
            groups = [batches[k : k + size] for k in range(0, len(batches), size)]
            for k in range(self.place.step, len(groups)):
                seconds = time.perf_counter() - start
                done = length.done(epoch + k / len(groups), seconds)
                if done >= 1:
                    return
                draws = (chance(self.seed, number, epoch, k, j) for j in range(len(groups[k])))
                losses = learner.step(done, map(objective.losses, groups[k], draws))
                score = None
                if k + 1 < len(groups):
                    self.place = replace(self.place, step=k + 1)
                else:
                    self.place = replace(self.place, epoch=epoch + 1, step=0)
                    score = self._validated(learner)
                self.place = replace(self.place, steps=self.place.steps + 1, seconds=seconds)
                if self.state and self.state.is_due():
                    self.state.save(self.place, learner.tensors())
                yield Step(
                    done=done,
                    stage=stage.name,
                    epoch=epoch,
                    steps=self.place.steps,
                    seconds=seconds,
                    rate=learner.rate,
                    losses=losses,
                    score=score,
                )

    def _validated(self, learner: Learner) -> float | None:
        """Score the model where that is due, and keep it where it is the best of the stage."""
        if not self.validate or self.place.epoch % self.recipe.validate:
            return None
        with learner.averaged() as model:
            score = self.validate(model)
        if self.place.score is None or score > self.place.score:
            learner.keep_best()
            self.place = replace(self.place, score=score, stale=0)
        else:
            self.place = replace(self.place, stale=self.place.stale + 1)
        return score
