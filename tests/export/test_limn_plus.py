"""Train LIMN, a captioner and LIMN again on drawn garments: self-training with real models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import RECIPE
from tokenizers import Tokenizer as Pieces
from torch import Tensor, nn

from cir_rt.export.data.dataset import Dataset
from cir_rt.export.models.captioner import (
    CaptionerConfig,
    DifferenceCaptioner,
    load_captioner,
    save_captioner,
)
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.kinds import build_tower
from cir_rt.export.models.limn import Limn, LimnConfig
from cir_rt.export.train.captioning import Captioning, Described, train_captioner, write_captions
from cir_rt.export.train.examples import load_pixels
from cir_rt.export.train.filtering import Filtering
from cir_rt.export.train.limn_losses import matching, orthogonality
from cir_rt.export.train.mining import Mining
from cir_rt.export.train.self_training import Pool, SelfTraining, Triplet, self_train
from cir_rt.export.train.vocabulary import learn
from cir_rt.text import Tokenizer

GROUPS = ("dress", "shirt")
SETTINGS = SelfTraining(
    rounds=1, mining=Mining(neighbours=2, duplicate=0.999), filtering=Filtering(rank=3)
)


class SmallModel(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        words = {**RECIPE.text.settings, "vocabulary": vocabulary, "context": 16, "dim": 32}
        self.image = build_tower(
            replace(RECIPE.image, settings={**RECIPE.image.settings, "dim": 32})
        )
        self.text = build_tower(replace(RECIPE.text, settings=words))
        config = LimnConfig(factors=3, width=32, token_width=24, match_width=16, dropout=0.0)
        self.compose = Limn(config, image_width=32, image_dim=32, text_width=32, text_dim=32)


class SmallSteps:
    """The steps with small models; every batch is all there is."""

    def __init__(self, dataset: Dataset, pool: Pool, tokenizer: Path) -> None:
        self.pool = pool
        self.row = {picture: k for k, picture in enumerate(pool.ids)}
        pixels = load_pixels(dataset.paths(pool.ids), RECIPE.preprocess)
        self.pictures = torch.from_numpy(RECIPE.preprocess.normalise(pixels))
        self.pieces = Pieces.from_file(str(tokenizer))
        self.words = Tokenizer(tokenizer, context=16, pad_id=0)

    def train_limn(
        self, out: Path, *, start: Path | None, extra: Sequence[Triplet], weight: float
    ) -> None:
        torch.manual_seed(len(extra))
        model = self._model(start).train()
        triplets = [*self.pool.labelled, *extra]
        reference, target, ids = self._rows(triplets)
        weights = torch.tensor([1.0] * len(self.pool.labelled) + [weight] * len(extra))
        right = torch.zeros(len(triplets), len(self.pool.ids), dtype=torch.bool)
        right[torch.arange(len(triplets)), target] = True
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(25):
            factors = model.compose.factors(model.image.read(self.pictures))
            flat, u = model.compose.flat(factors), model.compose.words(model.text.read(ids))
            q, _ = model.compose(flat[reference], u)
            scale = torch.tensor(10.0)
            token, factor = matching(model.compose, q, flat, target, right, scale, weights)
            apart = orthogonality(factors[reference], u.view(-1, 3, 32), factors[target])
            optimizer.zero_grad()
            (token + 0.5 * factor + 0.1 * apart).backward()
            optimizer.step()
        save_file(model.state_dict(), out / "model.safetensors")

    def train_captioner(
        self, out: Path, *, limn: Path, start: Path | None, extra: Sequence[Triplet], weight: float
    ) -> None:
        torch.manual_seed(2)
        config = CaptionerConfig(
            image_width=32,
            image_dim=32,
            vocabulary=self.pieces.get_vocab_size(),
            longest=16,
            width=32,
            layers=1,
        )
        captioner = load_captioner(start) if start else DifferenceCaptioner(config)
        reference, target, ids = self._rows([*self.pool.labelled, *extra])
        weights = [1.0] * len(self.pool.labelled) + [weight] * len(extra)
        described = Described(
            reference=reference.numpy(),
            target=target.numpy(),
            ids=ids.numpy(),
            weights=np.asarray(weights, np.float32),
        )
        settings = Captioning(epochs=60, captions=32, learning_rate=4e-3)
        train_captioner(captioner, self._seen(limn), described, settings)
        save_captioner(captioner, out)

    def caption(self, captioner: Path, *, limn: Path, pairs: Sequence[Triplet]) -> list[str]:
        rows = np.asarray([[self.row[p.reference], self.row[p.target]] for p in pairs])
        return write_captions(load_captioner(captioner), self._seen(limn), rows, self.pieces)

    @torch.inference_mode()
    def embed(self, limn: Path) -> np.ndarray:
        model = self._model(limn).eval()
        return model.compose.pictures(model.image.read(self.pictures)).numpy()

    @torch.inference_mode()
    def ask(self, limn: Path, triplets: Sequence[Triplet]) -> np.ndarray:
        model = self._model(limn).eval()
        reference, _, ids = self._rows(triplets)
        v = torch.from_numpy(self.embed(limn))[reference]
        return model.compose(v, model.compose.words(model.text.read(ids)))[0].numpy()

    @torch.inference_mode()
    def _seen(self, limn: Path) -> Encoded:
        seen = self._model(limn).eval().image.read(self.pictures)
        return Encoded(vectors=seen.vectors, tokens=seen.tokens.half())

    def _model(self, folder: Path | None) -> SmallModel:
        model = SmallModel(self.pieces.get_vocab_size())
        if folder:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        return model

    def _rows(self, triplets: Sequence[Triplet]) -> tuple[Tensor, Tensor, Tensor]:
        reference = torch.tensor([self.row[t.reference] for t in triplets])
        target = torch.tensor([self.row[t.target] for t in triplets])
        ids = self.words([t.caption for t in triplets], truncate=True)
        return reference, target, torch.from_numpy(ids)


@pytest.fixture(scope="module")
def steps(drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SmallSteps:
    split = drawn.split("train")
    group = {picture: name for name in GROUPS for picture in split.galleries[name]}
    labelled = [
        Triplet(reference=q.reference, target=q.targets[0], caption=q.text)
        for q in split.queries
        if q.group in GROUPS
    ]
    tokenizer = tmp_path_factory.mktemp("words") / "tokenizer.json"
    learn([t.caption for t in labelled], 320, tokenizer)
    pool = Pool(ids=tuple(group), labelled=tuple(labelled), groups=tuple(group.values()))
    return SmallSteps(drawn, pool, tokenizer)


@pytest.fixture(scope="module")
def trained(steps: SmallSteps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    assert self_train(steps, steps.pool, folder, SETTINGS) == folder / "round-1/limn"
    return folder


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_round_writes_captions_and_keeps_what_is_found(steps: SmallSteps, trained: Path) -> None:
    labelled = {(t.reference, t.target) for t in steps.pool.labelled}
    group = dict(zip(steps.pool.ids, steps.pool.groups or (), strict=True))
    pairs = {(str(p["reference"]), str(p["target"])) for p in lines(trained / "pairs.jsonl")}
    assert pairs
    assert not pairs & labelled
    assert all(group[a] == group[b] for a, b in pairs)
    captioned = lines(trained / "round-1/captions.jsonl")
    kept = lines(trained / "round-1/kept.jsonl")
    assert 0 < len(kept) <= len(captioned) <= len(pairs)
    spoken = {word for t in steps.pool.labelled for word in t.caption.lower().split()}
    words = [word for line in captioned for word in str(line["caption"]).split()]
    assert sum(word in spoken for word in words) > 0.5 * len(words)


def test_training_goes_on_with_what_was_kept(steps: SmallSteps, trained: Path) -> None:
    before, after = trained / "round-0/limn", trained / "round-1/limn"

    def rank(limn: Path) -> float:
        """The mean rank of labelled targets among all pictures."""
        scores = steps.ask(limn, steps.pool.labelled) @ steps.embed(limn).T
        target = [steps.row[t.target] for t in steps.pool.labelled]
        own = scores[np.arange(len(target)), target]
        return float((scores >= own[:, None]).sum(1).mean())

    assert rank(after) < rank(before) < 0.4 * len(steps.pool.ids)


def test_an_interrupted_round_ends_the_same(
    steps: SmallSteps, trained: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "rounds")
    shutil.rmtree(folder / "round-1/limn")
    for name in ("captions.jsonl", "kept.jsonl"):
        (folder / "round-1" / name).unlink()
    self_train(steps, steps.pool, folder, SETTINGS)
    for path in trained.rglob("*"):
        if path.is_file():
            assert (folder / path.relative_to(trained)).read_bytes() == path.read_bytes(), path
