"""Check re-ranked evaluation against brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import RECIPE, untrained
from test_objectives import GROUNDED

from cir_rt.errors import CheckpointError, UsageError
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset, Split
from cir_rt.export.evaluate import Scored, ask, evaluate, report
from cir_rt.export.models.encoder import open_encoder
from cir_rt.export.models.scorer import open_scorer
from cir_rt.export.rerank import reranked
from cir_rt.export.train.recipes import Prune, Rerank
from cir_rt.export.train.run import train


class Likes:
    """Scores a candidate by its own number plus its reference's, whatever the words."""

    def read(self, sources: Sequence[Path]) -> np.ndarray:
        numbers = np.arange(len(sources), dtype=np.float32)
        return (numbers * 37 % 101)[:, None, None]

    def score(
        self,
        reference: np.ndarray,
        texts: Sequence[str],
        candidates: np.ndarray,
        pruned: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        assert len(reference) == len(texts) == len(candidates)
        return (candidates[:, :, 0, 0] + reference[:, 0]) % 53


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("k", [1, 7, 989])
def test_the_best_are_put_in_a_new_order(drawn: Dataset, keep: bool, k: int) -> None:
    split = drawn.split("val")
    split = replace(split, protocol=replace(split.protocol, keep_reference=keep))
    rng = np.random.default_rng(0)
    blocks = []
    for group, gallery in split.galleries.items():
        members = np.asarray([n for n, q in enumerate(split.queries) if q.group == group])
        scores = rng.standard_normal((len(members), len(gallery))).astype(np.float32)
        blocks.append(Scored(group=group, queries=members, scores=scores))
    found = list(reranked(iter(blocks), Likes(), drawn, split, k))
    number = {picture: place * 37 % 101 for place, picture in enumerate(split.pictures)}
    for before, after in zip(blocks, found, strict=True):
        gallery = split.galleries[before.group]
        for row, place in enumerate(before.queries):
            asked = split.queries[int(place)]
            order = [
                int(c)
                for c in np.argsort(-before.scores[row], kind="stable")
                if keep or gallery[c] != asked.reference
            ]
            judged = {c: (number[gallery[c]] + number[asked.reference]) % 53 for c in order[:k]}
            expected = sorted(order[:k], key=lambda c: -judged[c]) + order[k:]
            got = [
                int(c)
                for c in np.argsort(-after.scores[row], kind="stable")
                if keep or gallery[c] != asked.reference
            ]
            assert [judged.get(c) for c in got] == [judged.get(c) for c in expected]
            assert got[k:] == expected[k:]


def test_a_subset_is_scored_whole(drawn: Dataset) -> None:
    split = drawn.split("val")
    protocol = replace(split.protocol, subset_ks=(1,), keep_reference=False)
    group, gallery = next(iter(split.galleries.items()))
    queries = tuple(
        replace(q, subset=tuple(i for i in gallery if i != q.reference)[-5:])
        for q in split.queries
        if q.group == group
    )
    small = Split(name="val", protocol=protocol, queries=queries, galleries={group: gallery})
    scores = -np.arange(len(gallery), dtype=np.float32)[None].repeat(len(queries), 0)
    block = Scored(group=group, queries=np.arange(len(queries)), scores=scores)
    (found,) = reranked([block], Likes(), drawn, small, 3)
    assert found.among is not None
    number = {picture: place * 37 % 101 for place, picture in enumerate(small.pictures)}
    for row, query in enumerate(queries):
        columns = [gallery.index(i) for i in query.subset]
        best = max(columns, key=lambda c: (number[gallery[c]] + number[query.reference]) % 53)
        assert found.among[row].argmax() == best
        ranked = [c for c, picture in enumerate(gallery) if picture != query.reference]
        assert np.array_equal(found.scores[row][ranked[3:]], scores[row][ranked[3:]])


@pytest.fixture(scope="module")
def stages(
    drawn: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Checkpoint]:
    """Stage I and stage II, each trained for an epoch over an untrained image tower."""
    folder = tmp_path_factory.mktemp("stages")
    untrained(folder / "towers")
    text = replace(Prune().text, settings=GROUNDED)
    sizes = {"pictures": RECIPE.pictures, "queries": 16}
    train(drawn, folder / "prune", Prune(text=text, **sizes), init=folder / "towers", epochs=1)
    recipe = Rerank(queries=16, negatives="hard", hard=3, top=9)
    train(drawn, folder / "rerank", recipe, init=folder / "prune", epochs=1)
    return open_checkpoint(folder / "prune"), open_checkpoint(folder / "rerank")


def test_stage_one_is_evaluated_as_its_formula(
    drawn: Dataset, stages: tuple[Checkpoint, Checkpoint]
) -> None:
    split = drawn.split("val")
    encoder = open_encoder(stages[0])
    blocks = list(ask(encoder, drawn, split))
    model, tokenizer = encoder.model, encoder.tokenizer
    query = split.queries[int(blocks[1].queries[2])]
    preprocess = model.config.preprocess
    with torch.inference_mode():
        pixels = torch.from_numpy(preprocess(drawn.paths([query.reference])))
        ids = torch.from_numpy(tokenizer([query.text], truncate=True))
        z = model.text.read(model.image.read(pixels).tokens, ids)
        q = torch.nn.functional.normalize(model.text.project(z[:, 0]), dim=-1)
        gallery = drawn.paths(split.galleries[query.group])
        c = model.image(torch.from_numpy(preprocess(gallery)))
    assert np.abs(blocks[1].scores[2] - (q @ c.T)[0].numpy()).max() < 1e-5
    with pytest.raises(UsageError, match="weight"):
        list(ask(encoder, drawn, split, weight=0.5))


def test_stage_two_keeps_stage_one(stages: tuple[Checkpoint, Checkpoint]) -> None:
    first = open_encoder(stages[0]).model.state_dict()
    second = open_encoder(stages[1]).model.state_dict()
    for name, tensor in first.items():
        if not name.startswith("log_scale"):
            assert torch.equal(second[name], tensor), name


def test_a_reranker_ranks_any_systems_candidates(
    drawn: Dataset, checkpoint: Checkpoint, stages: tuple[Checkpoint, Checkpoint]
) -> None:
    split, scorer = drawn.split("val"), open_scorer(stages[1])
    before = evaluate(open_encoder(checkpoint), drawn, split)
    found = reranked(ask(open_encoder(checkpoint), drawn, split), scorer, drawn, split, 10)
    after = report(found, drawn.name, split, rerank=10)
    assert after.to_json()["rerank"] == 10
    assert after.recall["R@10"] == before.recall["R@10"]  # the ten are the same ten
    assert after.recall["R@1"] != before.recall["R@1"]
    near = open_scorer(stages[1], prune_weight=1e6)  # nothing else counts then
    found = reranked(ask(open_encoder(checkpoint), drawn, split), near, drawn, split, 10)
    assert report(found, drawn.name, split).recall == before.recall


def test_only_a_reranker_reranks(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="cir-rt train rerank"):
        open_scorer(checkpoint)
