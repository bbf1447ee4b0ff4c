"""LIMN+ (arXiv 2305.09979): the rounds of self-training, with the trainer's own LIMN."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as Pieces

from cir_rt.config import from_dict
from cir_rt.errors import DataError
from cir_rt.export.checkpoint import TOKENIZER, open_checkpoint
from cir_rt.export.data.dataset import Dataset, Query
from cir_rt.export.data.pool import mining_pool
from cir_rt.export.models.captioner import (
    CaptionerConfig,
    DifferenceCaptioner,
    load_captioner,
    save_captioner,
)
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.encoder import TorchEncoder
from cir_rt.export.models.storage import load_model
from cir_rt.export.train.captioning import Captioning, Described, train_captioner, write_captions
from cir_rt.export.train.recipes import Limn, LimnPlus
from cir_rt.export.train.run import Trained, train
from cir_rt.export.train.self_training import Pool, SelfTraining, Triplet, self_train
from cir_rt.export.train.state import Place
from cir_rt.export.train.trainer import Step

ROUNDS = "rounds"  # below the checkpoint folder


def train_limn_plus(
    dataset: Dataset,
    out: Path,
    recipe: LimnPlus,
    *,
    init: Path | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Callable[[Step], None] | None = None,
) -> Trained:
    """Run the rounds in `out`/rounds and leave the last LIMN in `out`.

    `epochs` are of each training of LIMN; `minutes` are shared by them, captioners come on top.
    A run that was interrupted goes on with `resume` after its last finished step. Raises
    DataError where no pair is found or trusted, ConfigError for a resumed run of other settings.
    """
    settings: SelfTraining = from_dict(SelfTraining, recipe.self_training, "self_training")
    if not resume:
        shutil.rmtree(out / ROUNDS, ignore_errors=True)
    plain = Limn(**{f.name: getattr(recipe, f.name) for f in fields(Limn)})
    each = minutes / (settings.rounds + 1) if minutes else None
    trained: list[Trained] = []

    def run(folder: Path, start: Path | None, extra: Sequence[Query], weight: float) -> None:
        done = train(
            dataset,
            folder,
            plain,
            init=start or init,
            epochs=epochs,
            minutes=each,
            device=device,
            threads=threads,
            seed=seed,
            extra=extra,
            extra_weight=weight,
            progress=progress,
        )
        trained.append(done)

    steps = _Steps(dataset, recipe, pool_of(dataset), run, device, seed)
    last = self_train(steps, steps.pool, out / ROUNDS, settings)
    shutil.copytree(last, out, dirs_exist_ok=True)
    place = Place(
        steps=sum(t.steps for t in trained),
        seconds=sum(t.seconds for t in trained),
        score=trained[-1].score if trained else None,
    )
    return Trained.of(load_model(open_checkpoint(out)), out, place)


def pool_of(dataset: Dataset) -> Pool:
    """Return the training pictures that may be mined, with what is labelled among them.

    Raises DataError without any.
    """
    groups = {picture: group for group, ids in mining_pool(dataset).items() for picture in ids}
    if not groups:
        raise DataError(f"{dataset.folder}: no training picture may be mined.")
    labelled = [
        Triplet(reference=q.reference, target=q.targets[0], caption=q.text)
        for q in dataset.split("train").queries
        if q.reference in groups and q.targets[0] in groups
    ]
    return Pool(ids=tuple(groups), labelled=tuple(labelled), groups=tuple(groups.values()))


class _Steps:
    """A round's work on the pool's pictures."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: LimnPlus,
        pool: Pool,
        run: Callable[[Path, Path | None, Sequence[Query], float], None],
        device: str,
        seed: int,
    ) -> None:
        self.recipe, self.pool, self.run = recipe, pool, run
        self.device, self.seed = device, seed
        self.captioning: Captioning = from_dict(Captioning, recipe.captioning, "captioning")
        self.paths = dataset.paths(pool.ids)
        self.row = {picture: k for k, picture in enumerate(pool.ids)}
        self.groups = dict(zip(pool.ids, pool.groups or (), strict=True))

    def train_limn(
        self, out: Path, *, start: Path | None, extra: Sequence[Triplet], weight: float
    ) -> None:
        queries = [
            Query(
                reference=t.reference,
                captions=(t.caption,),
                targets=(t.target,),
                group=self.groups[t.reference],
            )
            for t in extra
        ]
        self.run(out, start, queries, weight)

    def train_captioner(
        self, out: Path, *, limn: Path, start: Path | None, extra: Sequence[Triplet], weight: float
    ) -> None:
        seen, encoder = self._seen(limn)
        triplets = [*self.pool.labelled, *extra]
        weights = np.ones(len(triplets), np.float32)
        weights[len(self.pool.labelled) :] = weight
        described = Described(
            reference=np.asarray([self.row[t.reference] for t in triplets]),
            target=np.asarray([self.row[t.target] for t in triplets]),
            ids=encoder.tokenizer([t.caption for t in triplets], truncate=True),
            weights=weights,
        )
        torch.manual_seed(self.seed)
        captioner = load_captioner(start) if start else self._fresh(encoder, limn)
        train_captioner(captioner.to(self.device), seen, described, self.captioning, seed=self.seed)
        save_captioner(captioner, out)

    def caption(self, captioner: Path, *, limn: Path, pairs: Sequence[Triplet]) -> Sequence[str]:
        seen, _ = self._seen(limn)
        rows = np.asarray([[self.row[p.reference], self.row[p.target]] for p in pairs])
        pieces = Pieces.from_file(str(limn / TOKENIZER))
        writer = load_captioner(captioner).to(self.device)
        return write_captions(writer, seen, rows, pieces, beams=self.captioning.beams)

    def embed(self, limn: Path) -> np.ndarray:
        return self._encoder(limn).encode_pictures(self.paths)

    def ask(self, limn: Path, triplets: Sequence[Triplet]) -> np.ndarray:
        encoder = self._encoder(limn)
        named = list(dict.fromkeys(t.reference for t in triplets))
        place = {picture: k for k, picture in enumerate(named)}
        vectors = encoder.encode_pictures([self.paths[self.row[picture]] for picture in named])
        v = vectors[[place[t.reference] for t in triplets]]
        return encoder.compose(v, encoder.encode_texts([t.caption for t in triplets]))[0]

    def _encoder(self, limn: Path) -> TorchEncoder:
        checkpoint = open_checkpoint(limn)
        return TorchEncoder(load_model(checkpoint).to(self.device), checkpoint.tokenizer())

    @torch.inference_mode()
    def _seen(self, limn: Path) -> tuple[Encoded, TorchEncoder]:
        """Return the pool's pictures as the image tower reads them, tokens in half precision."""
        encoder = self._encoder(limn)
        preprocess, parts = encoder.model.config.preprocess, []
        for k in range(0, len(self.paths), encoder.batch):
            pixels = torch.from_numpy(preprocess(self.paths[k : k + encoder.batch]))
            parts.append(encoder.model.image.read(pixels.to(self.device)))
        seen = Encoded(
            vectors=torch.cat([part.vectors for part in parts]),
            tokens=torch.cat([part.tokens.half() for part in parts]),
        )
        return seen, encoder

    def _fresh(self, encoder: TorchEncoder, limn: Path) -> DifferenceCaptioner:
        config = encoder.model.config
        known = {
            "image_width": encoder.model.image.width,
            "image_dim": config.image.settings["dim"],
            "vocabulary": Pieces.from_file(str(limn / TOKENIZER)).get_vocab_size(),
            "pad_id": config.pad_id,
            "longest": config.context,  # to which captions are cut
        }
        settings = {**known, **self.recipe.captioner}
        return DifferenceCaptioner(from_dict(CaptionerConfig, settings, "captioner"))
