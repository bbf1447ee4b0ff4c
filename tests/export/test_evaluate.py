"""Hold scoring against a ranking by sorting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir_rt.errors import DataError
from cir_rt.export import evaluate as evaluation
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.data.dataset import Dataset, Protocol, Query, Split
from cir_rt.export.evaluate import Scored, encode, evaluate, products, report, score
from cir_rt.export.models.encoder import open_encoder

KS = (1, 2, 5)


def protocol(keep_reference: bool) -> Protocol:
    return Protocol(
        name="made",
        gallery="all",
        keep_reference=keep_reference,
        captions="single",
        ks=KS,
        mean_of=("R@1", "R@5"),
    )


def made(rng: np.random.Generator, keep_reference: bool) -> Split:
    """Three groups of different sizes; some references lie outside their gallery."""
    galleries, queries = {}, []
    for group, size, count in (("a", 19, 7), ("b", 7, 19), ("c", 1, 2)):
        ids = [f"{group}{k}" for k in rng.permutation(size)]
        galleries[group] = tuple(ids)
        for k in range(count):
            reference = f"out{group}{k}" if size == 1 or k % 3 == 0 else ids[rng.integers(size)]
            others = [i for i in ids if i != reference]
            targets = rng.choice(others, min(1 + k % 3, len(others)), replace=False)
            queries.append(
                Query(
                    reference=reference,
                    captions=("x",),
                    targets=tuple(map(str, targets)),
                    group=group,
                )
            )
    order = rng.permutation(len(queries))
    return Split(
        name="val",
        protocol=protocol(keep_reference),
        queries=tuple(queries[k] for k in order),
        galleries=galleries,
    )


def by_sorting(split: Split, queries: np.ndarray, pictures: np.ndarray) -> dict[str, dict]:
    """Sort each gallery, best first and lower row first among equals; count hits."""
    hits: dict[str, list[list[bool]]] = {group: [] for group in split.galleries}
    for vector, query in zip(queries, split.queries, strict=True):
        gallery = split.galleries[query.group]
        scored = [
            (-float(vector @ pictures[split.pictures.index(i)]), row, i)
            for row, i in enumerate(gallery)
            if split.protocol.keep_reference or i != query.reference
        ]
        ranked = [i for _, _, i in sorted(scored)]
        hits[query.group].append([bool(set(ranked[:k]) & set(query.targets)) for k in KS])
    return {
        group: dict(zip([f"R@{k}" for k in KS], 100 * np.mean(rows, axis=0), strict=True))
        for group, rows in hits.items()
    }


@pytest.mark.parametrize("keep_reference", [True, False])
@pytest.mark.parametrize("levels", [2, 1000], ids=["ties", "no ties"])
@pytest.mark.parametrize("seed", range(3))
def test_score_is_what_sorting_says(keep_reference: bool, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    split = made(rng, keep_reference)
    queries = rng.integers(-levels, levels + 1, (len(split.queries), 3)).astype(np.float32)
    pictures = rng.integers(-levels, levels + 1, (len(split.pictures), 3)).astype(np.float32)
    report = score(queries, pictures, "made", split)
    expected = by_sorting(split, queries, pictures)
    for group, recalls in expected.items():
        assert report.groups[group] == pytest.approx(recalls, abs=0.006)
    for name, value in report.recall.items():
        assert value == pytest.approx(np.mean([g[name] for g in expected.values()]), abs=0.011)
    overall = report.recall
    assert report.mean == pytest.approx((overall["R@1"] + overall["R@5"]) / 2, abs=0.006)


def tiny(keep_reference: bool = True, targets: Sequence[str] = ("b",)) -> Split:
    query = Query(reference="a", captions=("x",), targets=tuple(targets), group="all")
    return Split(
        name="val",
        protocol=protocol(keep_reference),
        queries=(query,),
        galleries={"all": ("c", "b", "a")},
    )


def test_equal_scores_rank_by_lower_row() -> None:
    pictures = np.ones((3, 2), np.float32)
    query = np.ones((1, 2), np.float32)
    assert score(query, pictures, "made", tiny()).recall == {"R@1": 0, "R@2": 100, "R@5": 100}
    first = score(query, pictures, "made", tiny(targets=["a", "c"]))
    assert first.recall["R@1"] == 100


def test_the_reference_leaves_its_own_ranking() -> None:
    pictures = np.eye(3, dtype=np.float32)
    query = np.array([[0.1, 0.5, 0.9]], np.float32)  # nearest to its own reference, row 2
    assert score(query, pictures, "made", tiny(keep_reference=True)).recall["R@1"] == 0
    assert score(query, pictures, "made", tiny(keep_reference=False)).recall["R@1"] == 100


def test_vectors_that_are_not_numbers_are_refused() -> None:
    """A broken engine must not pass where pictures ahead of the target are counted."""
    pictures = np.full((3, 2), np.nan, np.float32)
    with pytest.raises(ValueError, match="NaN"):
        score(np.ones((1, 2), np.float32), pictures, "made", tiny())


def test_a_target_outside_the_gallery_is_never_found() -> None:
    ones = np.ones((3, 2), np.float32)
    report = score(ones[:1], ones, "made", tiny(targets=["nowhere"]))
    assert report.recall == {"R@1": 0, "R@2": 0, "R@5": 0}


def test_the_report_has_the_fields_of_the_contract() -> None:
    split = made(np.random.default_rng(0), keep_reference=False)
    ones = np.ones((len(split.queries), 2), np.float32)
    values = score(ones, np.ones((len(split.pictures), 2), np.float32), "made", split).to_json()
    assert list(values) == [
        "dataset",
        "split",
        "protocol",
        "queries",
        "gallery",
        "rerank",
        "recall",
        "groups",
        "mean",
    ]
    assert (values["dataset"], values["split"], values["rerank"]) == ("made", "val", 0)
    assert (values["queries"], values["gallery"]) == (28, 27)
    assert "reference removed" in values["protocol"]
    assert set(values["recall"]) == {"R@1", "R@2", "R@5"}
    assert set(values["groups"]) == {"a", "b", "c"}


def richer(rng: np.random.Generator) -> Split:
    """The made split with subsets, the reference not in them, and precision."""
    split = made(rng, keep_reference=False)
    rules = replace(
        split.protocol, subset_ks=(1, 2), precision_ks=(3,), mean_of=("R@5", "Rs@1", "mAP@3")
    )
    queries = []
    for query in split.queries:
        others = [i for i in split.galleries[query.group] if i != query.reference]
        subset = rng.choice(others, min(4, len(others)), replace=False)
        queries.append(replace(query, subset=tuple(map(str, subset))))
    return replace(split, protocol=rules, queries=tuple(queries))


@pytest.mark.parametrize("seed", range(3))
def test_subsets_and_precision_are_what_sorting_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    split = richer(rng)
    queries = rng.integers(-3, 4, (len(split.queries), 3)).astype(np.float32)
    pictures = rng.integers(-3, 4, (len(split.pictures), 3)).astype(np.float32)
    report = score(queries, pictures, "made", split)
    values: dict[str, list[list[float]]] = {group: [] for group in split.galleries}
    for vector, query in zip(queries, split.queries, strict=True):
        gallery = split.galleries[query.group]
        scored = [
            (-float(vector @ pictures[split.pictures.index(i)]), row, i)
            for row, i in enumerate(gallery)
            if i != query.reference
        ]
        ranked = [i for _, _, i in sorted(scored)]
        subset = [i for i in ranked if i in query.subset]
        hits = [i in query.targets for i in ranked[:3]]
        precision = sum(sum(hits[: k + 1]) / (k + 1) for k in range(len(hits)) if hits[k])
        values[query.group].append(
            [
                *(bool(set(subset[:k]) & set(query.targets)) for k in (1, 2)),
                precision / max(1, min(3, len(query.targets))),
            ]
        )
    for group, rows in values.items():
        expected = dict(zip(["Rs@1", "Rs@2", "mAP@3"], 100 * np.mean(rows, axis=0), strict=True))
        for name, value in expected.items():
            assert report.groups[group][name] == pytest.approx(value, abs=0.006)
    assert report.mean == pytest.approx(
        (report.recall["R@5"] + report.subset["Rs@1"] + report.precision["mAP@3"]) / 3, abs=0.006
    )
    told = report.to_json()
    assert (told["subset"], told["map"]) == (report.subset, report.precision)
    assert set(told["recall"]) == {"R@1", "R@2", "R@5"}


def test_blocks_of_any_size_and_order_give_one_report(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    split = richer(rng)
    queries = rng.standard_normal((len(split.queries), 5)).astype(np.float32)
    pictures = rng.standard_normal((len(split.pictures), 5)).astype(np.float32)
    whole = score(queries, pictures, "made", split)
    monkeypatch.setattr(evaluation, "BLOCK", 3)
    blocks = list(products(queries, pictures, split))
    assert max(len(block.queries) for block in blocks) == 3
    assert report(reversed(blocks), "made", split).to_json() == whole.to_json()


def test_scores_may_come_from_elsewhere() -> None:
    """A re-ranker hands in scores of its own; the report says how many it looked at."""
    scores = np.array([[0.2, 0.9, 0.4]], np.float32)  # of c, b, a
    block = Scored(group="all", queries=np.array([0]), scores=scores)
    told = report([block], "made", tiny(), rerank=2)
    assert told.recall["R@1"] == 100
    assert told.to_json()["rerank"] == 2


def test_a_group_that_nobody_asks_does_not_count() -> None:
    split = tiny(targets=["b"])
    split = replace(split, galleries={**split.galleries, "other": ("x", "y")})
    ones = np.ones((5, 2), np.float32)
    assert set(score(ones[:1], ones, "made", split).groups) == {"all"}


def test_a_split_without_targets_is_refused_before_any_work(tmp_path: Path) -> None:
    """Nothing is encoded: there is no encoder here."""
    split = tiny(targets=())
    dataset = Dataset(name="made", folder=tmp_path, splits={"val": {"made": split}})
    with pytest.raises(DataError, match=r"made val: its right answers are not published"):
        evaluate(None, dataset, split)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="not published"):
        report([], "made", split)


def test_encode_lines_up_with_the_split(drawn: Dataset, checkpoint: Checkpoint) -> None:
    split = drawn.split("val")
    encoder = open_encoder(checkpoint)
    vectors = encode(encoder, drawn, split)
    assert vectors.pictures.shape == (len(split.pictures), 32)
    for k in (0, 19, 59):
        query = split.queries[k]
        alone = encoder.encode_pictures(drawn.paths([query.reference]))[0]
        assert np.allclose(vectors.v[k], alone, atol=1e-5)
        assert np.allclose(vectors.u[k], encoder.encode_texts([query.text])[0], atol=1e-5)


def test_weight_takes_one_side_alone(drawn: Dataset, checkpoint: Checkpoint) -> None:
    split = drawn.split("val")
    encoder = open_encoder(checkpoint)
    vectors = encode(encoder, drawn, split)
    for weight, side in ((1.0, vectors.v), (0.0, vectors.u)):
        queries, weights = encoder.compose(vectors.v, vectors.u, weight)
        assert np.allclose(queries, side, atol=1e-6)
        assert np.allclose(weights, [[weight, 1 - weight]] * len(side))
        expected = score(side, vectors.pictures, "fashioniq", split)
        assert evaluate(encoder, drawn, split, weight=weight).recall == expected.recall


def test_missing_pictures_stop_before_encoding(tmp_path: Path, checkpoint: Checkpoint) -> None:
    dataset = Dataset(name="made", folder=tmp_path, splits={"val": {"made": tiny()}})
    with pytest.raises(DataError, match="3 of 3 pictures are missing"):
        evaluate(open_encoder(checkpoint), dataset, dataset.split("val"))
