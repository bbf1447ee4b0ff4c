"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cir_rt.config import from_dict
from cir_rt.errors import ConfigError
from cir_rt.export.models.build import CirModel
from cir_rt.export.train import losses
from cir_rt.export.train.augment import Augment
from cir_rt.export.train.batches import draw, walk
from cir_rt.export.train.examples import Examples
from cir_rt.export.train.recipes import Progressive


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the caller's progress sees after each step."""

    done: float  # share of the run, 0 to 1
    epoch: int
    seconds: float
    losses: dict[str, float]


class Trainer:
    """Trains a model on examples for a number of epochs, or until minutes are over."""

    def __init__(
        self,
        model: CirModel,
        examples: Examples,
        recipe: Progressive,
        *,
        device: str = "cpu",
        seed: int = 0,
        pretrained: bool = False,
    ) -> None:
        """`pretrained` towers take the recipe's `tower_learning_rate`, the rest the full one."""
        self.model = model.to(device)
        self.examples = examples
        self.recipe = recipe
        self.device = torch.device(device)
        self.augment: Augment = from_dict(Augment, recipe.augment, "augment")
        self.rng = np.random.default_rng(seed)
        self.noise = torch.Generator().manual_seed(seed)
        self.optimizer = _optimizer(model, recipe, pretrained)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def run(
        self,
        *,
        epochs: int | None = None,
        minutes: float | None = None,
        progress: Callable[[Step], None] | None = None,
    ) -> int:
        """Train and return the number of epochs begun.

        The learning rate follows the share of the run that is over: of `minutes` where they are
        given, of `epochs` (the recipe's unless said) otherwise.
        """
        epochs = epochs or self.recipe.epochs
        start = time.perf_counter()
        self.model.train()
        begun = 0
        for passed, pictures, queries in self._endless():
            seconds = time.perf_counter() - start
            done = seconds / (60 * minutes) if minutes else passed / epochs
            if done >= 1:
                break
            begun = int(passed) + 1
            self._set_rate(done)
            parts = self._step(pictures, queries)
            if progress:
                values = {name: float(value.detach()) for name, value in parts.items()}
                progress(Step(done=done, epoch=int(passed), seconds=seconds, losses=values))
        self.model.eval()
        return begun

    def _endless(self) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
        """Yield (epochs passed, picture rows, query rows) without end."""
        epoch = 0
        while True:
            batches = list(self._epoch())
            if not batches:
                raise ConfigError(
                    f"no query lies within a batch of {self.recipe.pictures} pictures. "
                    "Raise the recipe's setting pictures, or check the data's queries."
                )
            for k, (pictures, queries) in enumerate(batches):
                yield epoch + k / len(batches), pictures, queries
            epoch += 1

    def _epoch(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return an epoch's batches as the recipe wants them."""
        limits = {"pictures": self.recipe.pictures, "queries": self.recipe.queries}
        if self.recipe.neighbours:
            return walk(
                self.examples.links, neighbours=self.recipe.neighbours, rng=self.rng, **limits
            )
        return draw(self.examples.links, rng=self.rng, **limits)

    def _set_rate(self, done: float) -> None:
        warmup = self.recipe.warmup
        share = done / warmup if done < warmup else 1 - (done - warmup) / (1 - warmup)
        factor = share if done < warmup else 0.5 - 0.5 * math.cos(math.pi * share)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _step(self, pictures: np.ndarray, queries: np.ndarray) -> dict[str, Tensor]:
        parts = self._losses(pictures, queries)
        total = sum(parts.values(), torch.zeros((), device=self.device))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return parts

    def _losses(self, pictures: np.ndarray, queries: np.ndarray) -> dict[str, Tensor]:
        """Return the recipe's terms for a batch of picture rows and query rows."""
        examples, recipe, model = self.examples, self.recipe, self.model
        place = np.full(examples.links.pictures, -1, np.int64)
        place[pictures] = np.arange(len(pictures))
        right, positives = self._answers(queries, place, len(pictures))
        reference = torch.from_numpy(place[examples.links.reference[queries]]).to(self.device)
        said = [self.rng.choice(examples.captions[q]) for q in queries]
        labelled = [p for p in pictures if len(examples.phrases[p])] if recipe.titles else []
        described = [self.rng.choice(examples.phrases[p]) for p in labelled]
        words = self._encode_texts(np.asarray([*said, *described], np.int64))

        everything = self._encode_pictures(pictures)  # (pictures, dim)
        v, u, y = everything[reference], words[: len(said)], everything[positives]
        q, weights = model.compose(v, u)
        parts = {"retrieval": losses.contrastive(model.scale * q @ everything.T, positives, right)}
        if recipe.weighting:
            wanted = losses.weight_targets(v, u, y, recipe.weighting_temperature)
            parts["weighting"] = recipe.weighting * losses.weighting(wanted, weights)
        if described:
            texts = torch.as_tensor(described, device=self.device)
            same = texts[:, None] == texts[None, :]
            rows = torch.from_numpy(place[labelled]).to(self.device)
            logits = model.scale * everything[rows] @ words[len(said) :].T
            diagonal = torch.arange(len(described), device=self.device)
            parts["titles"] = recipe.titles * losses.contrastive(logits, diagonal, same)
        return parts

    def _answers(
        self, queries: np.ndarray, place: np.ndarray, columns: int
    ) -> tuple[Tensor, Tensor]:
        right = np.zeros((len(queries), columns), bool)
        positives = np.empty(len(queries), np.int64)
        for row, query in enumerate(queries):
            inside = place[self.examples.links.targets[query]]
            inside = inside[inside >= 0]
            right[row, inside] = True
            if not self.examples.keep_reference:
                right[row, place[self.examples.links.reference[query]]] = True
            positives[row] = self.rng.choice(inside)
        return (
            torch.from_numpy(right).to(self.device),
            torch.from_numpy(positives).to(self.device),
        )

    def _encode_pictures(self, rows: np.ndarray) -> Tensor:
        values = self.model.config.preprocess.normalise(self.examples.pixels[rows])
        pictures = self.augment(torch.from_numpy(values).to(self.device), self.noise)
        with _half_precision(self.device):  # the towers alone: logits need every bit
            return self.model.image(pictures.contiguous(memory_format=torch.channels_last))

    def _encode_texts(self, rows: np.ndarray) -> Tensor:
        unique, back = np.unique(rows, return_inverse=True)
        ids = self.examples.tokens(unique, self.model.config.pad_id)
        with _half_precision(self.device):
            encoded = self.model.text(torch.from_numpy(ids).to(self.device))
        return encoded[torch.from_numpy(back).to(self.device)]


def _computes_bf16() -> bool:
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())


def _half_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Autocast to bfloat16 where the device takes it."""
    if device.type == "cpu" and not _computes_bf16():
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _optimizer(model: CirModel, recipe: Progressive, pretrained: bool) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms, scales) are not decayed."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        tower = pretrained and name.startswith(("image.", "text."))
        rate = recipe.tower_learning_rate if tower else recipe.learning_rate
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "lr": rate, "weight_decay": wd} for (rate, wd), ps in groups.items()],
        betas=(0.9, 0.98),
    )
