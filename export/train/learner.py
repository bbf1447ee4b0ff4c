"""A model with what one stage of training moves it by: optimizer, moving average, best weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from cir_rt.export.models.systems import CirModel
from cir_rt.export.train.recipes import Recipe


class Learner:
    """Takes steps; remembers the weights' moving average and the best that were validated."""

    def __init__(self, model: CirModel, recipe: Recipe) -> None:
        """Pretrained towers take the recipe's `tower_learning_rate`, the rest the full one."""
        self.model = model
        self.recipe = recipe
        self.optimizer = _adamw(model, recipe)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = _copied(model) if recipe.average else {}
        self.best: dict[str, Tensor] = {}
        self.steps = 0

    @property
    def rate(self) -> float:
        """The learning rate of fresh layers."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def step(self, done: float, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
        """Move by the mean gradient of the batches' losses and return their mean terms.

        `done` is the share of the stage that is over; the rate rises to it, then falls as a cosine.
        """
        self._set_rate(done)
        self.model.train()
        for tower in (self.model.image, self.model.text):
            tower.train(any(p.requires_grad for p in tower.parameters()))
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, float] = {}
        count = 0
        for terms in batches:
            total = torch.stack(list(terms.values())).sum()
            total.backward()
            count += 1
            for name, term in terms.items():
                means[name] = means.get(name, 0.0) + float(term.detach())
        learnt = [p for p in self.model.parameters() if p.grad is not None]
        for parameter in learnt:
            assert parameter.grad is not None
            parameter.grad /= count
        nn.utils.clip_grad_norm_(learnt, 5.0)
        self.optimizer.step()
        self.steps += 1
        self._follow()
        return {name: value / count for name, value in means.items()}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[CirModel]:
        """Give the model in evaluation mode with the weights that would be kept now."""
        current = _copied(self.model) if self.average else {}
        self.model.load_state_dict(self.average, strict=False)
        self.model.eval()
        yield self.model
        self.model.load_state_dict(current, strict=False)

    def keep_best(self) -> None:
        """Remember the weights that would be kept now."""
        self.best = {k: v.clone() for k, v in (self.average or _copied(self.model)).items()}

    def settle(self) -> None:
        """Leave in the model what is kept: the best weights, else their average, else the last."""
        self.model.load_state_dict(self.best or self.average, strict=False)
        self.model.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, by name."""
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        found |= {f"average.{k}": v for k, v in self.average.items()}
        found |= {f"best.{k}": v for k, v in self.best.items()}
        found["steps"] = torch.tensor(self.steps)
        for k, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{k}.{name}": value for name, value in moments.items()}
        return {k: v.detach().cpu().contiguous() for k, v in found.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part == "optimizer":
                number, _, moment = rest.partition(".")
                moments.setdefault(int(number), {})[moment] = tensor
            elif part in parts:
                parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        device = next(self.model.parameters()).device
        self.average = {k: v.to(device) for k, v in parts["average"].items()}
        self.best = {k: v.to(device) for k, v in parts["best"].items()}
        self.steps = int(tensors["steps"])
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**state, "state": moments})

    def _set_rate(self, done: float) -> None:
        warmup = self.recipe.warmup
        share = done / warmup if done < warmup else (done - warmup) / (1 - warmup)
        factor = share if done < warmup else 0.5 + 0.5 * math.cos(math.pi * share)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the model, faster while it is young."""
        decay = min(self.recipe.average, (1 + self.steps) / (10 + self.steps))
        current = self.model.state_dict()
        for name, value in self.average.items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _adamw(model: CirModel, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms, scales) are not decayed, frozen weights are left out."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tower = name.split(".")[0] in model.pretrained
        rate = recipe.tower_learning_rate if tower else recipe.learning_rate
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "lr": rate, "weight_decay": wd} for (rate, wd), ps in groups.items()],
        betas=(0.9, 0.98),
    )
