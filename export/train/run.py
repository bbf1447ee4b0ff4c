"""From a dataset folder to a checkpoint folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cir_rt.config import to_dict
from cir_rt.errors import UsageError
from cir_rt.export.checkpoint import CALIBRATION, TOKENIZER, open_checkpoint
from cir_rt.export.data.dataset import Dataset, Query, Split
from cir_rt.export.evaluate import Encoder, QueryEncoder, ask, report
from cir_rt.export.models.encoder import encoder_of, open_encoder
from cir_rt.export.models.scorer import Scorer
from cir_rt.export.models.storage import check_device, save_model
from cir_rt.export.models.systems import CirModel, ProgressiveModel
from cir_rt.export.rerank import reranked
from cir_rt.export.samples import check_samples_folder, write_samples
from cir_rt.export.train.candidates import candidates
from cir_rt.export.train.card import write_card
from cir_rt.export.train.examples import Examples, read_examples
from cir_rt.export.train.holdout import hold_out, set_gate
from cir_rt.export.train.inputs import Inputs
from cir_rt.export.train.recipes import Progressive, Recipe, Rerank
from cir_rt.export.train.scalars import Scalars
from cir_rt.export.train.start import start
from cir_rt.export.train.state import Place, StateFile
from cir_rt.export.train.systems import stages_of
from cir_rt.export.train.trainer import Step, Trainer
from cir_rt.text import Tokenizer

PICTURES = 512  # of which an outline sees at a time
STATE = "training.safetensors"  # beside the checkpoint while a run is under way


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training run leaves."""

    folder: Path
    steps: int
    seconds: float
    parameters: dict[str, int]  # image, text, compose
    score: float | None  # of the best validation, where the recipe asked for any

    @classmethod
    def of(cls, model: CirModel, folder: Path, place: Place) -> Trained:
        """Count the model's parameters by part."""
        counts = {
            n: sum(p.numel() for p in part.parameters()) for n, part in model.named_children()
        }
        return cls(
            folder=folder,
            steps=place.steps,
            seconds=place.seconds,
            parameters=counts,
            score=place.score,
        )


def train(
    dataset: Dataset,
    out: Path,
    recipe: Recipe,
    *,
    init: Path | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    resume: bool = False,
    extra: Sequence[Query] = (),
    extra_weight: float = 1.0,
    progress: Callable[[Step], None] | None = None,
) -> Trained:
    """Train on the dataset's train split and write the checkpoint folder `out`.

    `init` is a checkpoint or a Hugging Face folder, of which as much goes on as both have. `extra`
    are queries besides the split's own, whose loss weighs `extra_weight`. Raises DataError where
    pictures are missing, UsageError where `resume` finds nothing unfinished in `out`.
    """
    if minutes and epochs:
        raise UsageError("minutes and epochs both say when to stop. Give one of them.")
    _prepare(out, device, threads, seed)
    split = dataset.split("train")
    length = {"epochs": epochs, "minutes": minutes}
    asked = replace(split, queries=(*split.queries, *extra))
    data = {"dataset": dataset.name, "queries": len(asked.queries), "start": str(init)}
    run = {"recipe": to_dict(recipe), "seed": seed, **length, **data}
    state = StateFile(out / STATE, run)
    with tempfile.TemporaryDirectory(prefix="cir-rt-train-") as scratch:
        words = Path(scratch) / TOKENIZER  # what stands in `out` stays until training is over
        model = start(dataset, split, recipe, words, init).to(device)
        config, tokenizer = model.config, model.config.tokenizer(words)
        examples = read_examples(dataset, asked, config.preprocess, tokenizer)
        examples = examples.weighed(len(extra), extra_weight) if extra else examples
        examples = _pruned(examples, dataset, split, recipe, model, tokenizer)
        _outlined(model, examples, init)
        trainer = Trainer(
            model,
            recipe,
            seed=seed,
            state=state,
            validate=_validation(dataset, recipe, tokenizer),
        )
        with Scalars(out) as scalars:
            told = scalars.write if progress is None else partial(_tell, scalars, progress)
            place = _learn(trainer, examples, told, {**length, "resume": resume})
        save_model(model, words, out)
    side = round(1.25 * config.preprocess.size)
    write_samples(dataset, split, out / CALIBRATION, side=side, seed=seed)
    trained = Trained.of(model, out, place)
    write_card(trained, recipe, run)
    state.delete()
    return trained


def _outlined(model: CirModel, examples: Examples, init: Path | None) -> None:
    """Let a fresh image tower's outline, where it has one, see the training pictures."""
    outline = getattr(model.image, "outline", None)
    if init is None and outline is not None:
        pieces = np.array_split(examples.pixels, 1 + len(examples.pixels) // PICTURES)
        seen = (torch.from_numpy(model.config.preprocess.normalise(x)) for x in pieces)
        outline.fit(x.to(outline.mean.device) for x in seen)


def _learn(
    trainer: Trainer,
    examples: Examples,
    progress: Callable[[Step], None],
    length: Mapping[str, Any],
) -> Place:
    """Train on the examples, but for products that are kept to set the gate with at the end."""
    model, recipe = trainer.model, trainer.recipe
    share = recipe.held_out if isinstance(recipe, Progressive) else 0.0
    held = hold_out(examples.links, share, np.random.default_rng(trainer.seed))
    stages = stages_of(model, Inputs(model, examples.only(~held), recipe), recipe)
    place = trainer.run(stages, progress=progress, **length)
    if held.any() and isinstance(model, ProgressiveModel):
        set_gate(model, examples.only(held))
    return place


def _pruned(
    examples: Examples,
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    model: CirModel,
    tokenizer: Tokenizer,
) -> Examples:
    """Add the candidates of the recipe's pruner, or of the model's own stage I, where asked for."""
    if not isinstance(recipe, Rerank) or recipe.negatives != "hard":
        return examples
    encoder: Encoder | QueryEncoder = encoder_of(model, tokenizer)
    if recipe.pruner:
        pruner = open_checkpoint(recipe.pruner)
        encoder = open_encoder(pruner, device=str(next(model.parameters()).device))
    found = candidates(encoder, dataset, split, examples, recipe.top)
    return replace(examples, candidates=found)


def _prepare(out: Path, device: str, threads: int | None, seed: int) -> None:
    if threads:
        torch.set_num_threads(threads)
    check_device(device)
    out.mkdir(parents=True, exist_ok=True)
    check_samples_folder(out / CALIBRATION)
    torch.manual_seed(seed)


def _tell(scalars: Scalars, progress: Callable[[Step], None], step: Step) -> None:
    scalars.write(step)
    progress(step)


def _validation(
    dataset: Dataset, recipe: Recipe, tokenizer: Tokenizer
) -> Callable[[CirModel], float] | None:
    """Return what scores a model: the dataset's own mean on its validation split."""
    if not recipe.validate:
        return None
    split = dataset.split("val")
    dataset.paths(split.pictures)  # a missing picture is told now, not after the first epochs

    def score(model: Any) -> float:
        scored = ask(encoder_of(model, tokenizer), dataset, split)
        if isinstance(recipe, Rerank):
            scored = reranked(scored, Scorer(model, tokenizer), dataset, split, recipe.top)
        return report(scored, dataset.name, split).mean

    return score
