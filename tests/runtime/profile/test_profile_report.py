"""A profile of the tiny model, from the bundle's folder to the object that is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_clock import Clock, questions, takes

from cir_rt.bundle import open_bundle, read_manifest
from cir_rt.errors import UsageError
from cir_rt.gallery import Gallery
from cir_rt.profile import energy, measure
from cir_rt.profile import report as reports
from cir_rt.profile.measure import Rig
from cir_rt.profile.options import ProfileOptions
from cir_rt.profile.questions import Question, drawn, made_up, readable
from cir_rt.profile.report import profile
from cir_rt.retriever import Retriever

FIELDS = {  # what the object has at least
    *("batch", "rerank", "gallery", "runs", "stages", "total", "qps", "peak_rss_mb"),
    *("cold_start_ms", "energy_j_per_query"),
}


def options(**settings: Any) -> ProfileOptions:
    short = {"runs": 12, "warmup": 1, "processes": 0, "threads": 1}
    return ProfileOptions(**{**short, **settings})


@pytest.fixture(scope="module")
def whole(bundle: Path, gallery: Path) -> dict[str, Any]:
    how = options(batches=(1, 4), rerank=(0, 50), processes=1)
    return profile(bundle, gallery, how)


def test_the_object_is_the_contracts(whole: dict[str, Any], bundle: Path) -> None:
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert {"environment", "scenario", "results"} <= set(whole)
    assert [(r["batch"], r["rerank"]) for r in whole["results"]] == [(1, 0), (4, 0)]
    for result in whole["results"]:
        assert set(result) >= FIELDS
        assert result["gallery"] == 144
        for figures in (*result["stages"].values(), result["total"]):
            assert {"p50_ms", "p90_ms", "p99_ms", "cv"} <= set(figures)
        assert {"tokenize", "text", "preprocess", "image", "compose", "prune"} <= set(
            result["stages"]
        )
        assert 20 < result["peak_rss_mb"] < 5000
    assert whole["environment"]["precisions"] == read_manifest(bundle).precisions
    assert whole["noise"]["spin_ms"] > 0


def test_stages_and_what_no_stage_owns_up_to_are_the_callers_time(whole: dict[str, Any]) -> None:
    for result in whole["results"]:
        parts = [stage["mean_ms"] for stage in result["stages"].values()]
        summed = sum(parts) + result["unaccounted"]["mean_ms"]
        assert summed == pytest.approx(result["total"]["mean_ms"], abs=0.01)
        assert result["qps"] == pytest.approx(
            1000 * result["batch"] / result["total"]["mean_ms"], rel=0.2
        )


def test_what_was_not_measured_has_a_reason(whole: dict[str, Any]) -> None:
    (skipped,) = whole["skipped"]
    assert skipped["rerank"] == 50
    assert "no re-ranker" in skipped["reason"]
    assert all(result["gpu_event_ms"] is None for result in whole["results"])
    assert set(whole["unmeasured"]) >= {"gpu_event_ms", "recall"}
    for name, reason in whole["unmeasured"].items():
        assert reason
        assert all(result[name] is None for result in whole["results"])


def test_the_cold_start_is_the_sum_of_its_parts(whole: dict[str, Any]) -> None:
    for result in whole["results"]:
        parts = result["cold_start"]
        names = ("interpreter_ms", "import_ms", "open_ms", "first_query_ms")
        assert all(parts[name] > 0 for name in names)
        assert result["cold_start_ms"] == pytest.approx(sum(parts[n] for n in names), abs=0.01)
        assert parts["steady_ms"] < result["cold_start_ms"]
        assert parts["peak_rss_mb"] > 20


@pytest.mark.parametrize("scenario", ["multi-stream", "offline"])
def test_each_scenario_has_a_batch_of_its_own(bundle: Path, gallery: Path, scenario: str) -> None:
    found = profile(bundle, gallery, options(scenario=scenario, runs=2))
    (result,) = found["results"]
    assert result["batch"] == {"multi-stream": 8, "offline": 32}[scenario]
    assert (result["runs"], result["queries"]) == (2, 2 * result["batch"])
    name = {"multi-stream": "p99_ms", "offline": "qps"}[scenario]
    value = result[name] if name == "qps" else result["total"][name]
    assert result["metric"] == {"name": name, "value": value}
    assert "cold_start_ms" in found["unmeasured"]


def test_the_server_finds_a_rate(
    bundle: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "BOUNDS", 0)  # as many queries as `runs`, however short that is
    found = profile(bundle, gallery, options(scenario="server", runs=20, bound_ms=1e3))
    (result,) = found["results"]
    assert result["bound_ms"] == 1e3
    assert "waiting" in result["stages"]
    assert result["goodput_qps"] <= result["qps"]
    assert 0 < result["in_time"] <= 1
    for tried in result["tried"]:
        assert set(tried) == {"rate_qps", "in_time", "p99_ms"}


def test_without_a_gallery_the_encoders_alone_are_measured(bundle: Path) -> None:
    found = profile(bundle, None, options(rerank=(0, 50)))
    (result,) = found["results"]
    assert result["gallery"] is None
    assert list(result["stages"]) == ["tokenize", "text", "preprocess", "image", "compose"]
    assert [s["rerank"] for s in found["skipped"]] == [50]
    assert {"cold_start_ms", "recall"} <= set(found["unmeasured"])
    with pytest.raises(UsageError, match="without a gallery"):
        profile(bundle, None, options(reference="id"))


def test_an_id_is_looked_up(bundle: Path, gallery: Path) -> None:
    (result,) = profile(bundle, gallery, options(reference="id"))["results"]
    assert "image" not in result["stages"]
    assert "lookup" in result["stages"]


def test_recall_is_that_of_single_searches(bundle: Path, gallery: Path) -> None:
    with Gallery.open(gallery) as opened:
        ids = opened.ids()
        pictures = [opened.thumbnail(i) for i in ids[:12]]
    rng = np.random.default_rng(0)
    asked = [
        Question(
            image=picture,
            text="in red",
            targets=(ids[i],) if i % 3 == 1 else tuple(rng.choice(ids, 3)),
            known=ids[i] if i % 3 == 1 else None,  # then it never finds itself
        )
        for i, picture in enumerate(pictures)
    ]
    found = profile(bundle, gallery, options(runs=12), questions=asked, asked_of="made val")
    ranks = []
    with Retriever.open(bundle, gallery, threads=1) as retriever:
        for question in asked:
            hits = retriever.search(question.known or question.image, "in red", k=144)
            ranks.append(min((h.rank for h in hits if h.id in question.targets), default=999))
    expected = {f"R@{k}": round(100 * np.mean(np.array(ranks) <= k), 2) for k in (1, 10, 50)}
    assert found["results"][0]["recall"] == expected
    assert 0 < expected["R@50"] < 100 or expected["R@10"] < expected["R@50"]
    assert found["settings"]["queries"] == "made val"
    assert "recall" not in found["unmeasured"]


class Meter:
    """Counts two joules for each start."""

    name = "a made meter"

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def start(self) -> None:
        if self.broken:
            raise OSError("gone")

    def stop(self) -> float:
        return 2.0


def test_energy_is_per_query(bundle: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "find_meter", lambda device: Meter())
    found = profile(bundle, gallery, options(runs=5, batches=(4,)))
    assert found["results"][0]["energy_j_per_query"] == pytest.approx(2 / 20)
    assert found["environment"]["energy_of"] == "a made meter"
    assert "energy_j_per_query" not in found["unmeasured"]
    monkeypatch.setattr(reports, "find_meter", lambda device: Meter(broken=True))
    found = profile(bundle, gallery, options(runs=5))
    assert found["results"][0]["energy_j_per_query"] is None
    assert "a reading of a made meter failed" in found["unmeasured"]["energy_j_per_query"]


def test_a_server_that_is_late_alone_is_not_searched() -> None:
    clock = Clock()
    rig = Rig(
        options=options(scenario="server", bound_ms=5.0),
        questions=questions(3),
        meter=None,
        clock=clock,
        sleep=clock.sleep,
    )
    figures = measure.measure(rig, takes(clock, lambda n: 0.010), 1)
    assert (figures["rate_qps"], figures["tried"], figures["goodput_qps"]) == (None, [], 0.0)
    assert figures["total"]["p50_ms"] == 10.0
    assert figures["metric"] == {"name": "rate_qps", "value": None}


def test_a_servers_energy_is_that_of_its_best_run() -> None:
    clock = Clock()
    rig = Rig(
        options=options(scenario="server", bound_ms=200.0, runs=60),
        questions=questions(3),
        meter=energy.Counter("clock", lambda: 7 * clock.now),  # seven watts
        clock=clock,
        sleep=clock.sleep,
    )
    figures = measure.measure(rig, takes(clock, lambda n: 0.010), 2)
    assert figures["rate_qps"] is not None
    watts = figures["energy_j_per_query"] * figures["qps"]
    assert watts == pytest.approx(7, rel=1e-3)
    assert figures["queries"] >= 60
    assert figures["noise"]["rate_qps"] == pytest.approx(200 / 64 / figures["rate_qps"], abs=1e-4)


def test_questions_are_drawn_by_the_seed(gallery: Path, bundle: Path) -> None:
    with Gallery.open(gallery) as opened:
        first, again, other = (
            drawn(opened, np.random.default_rng(seed), reference="id", count=20)
            for seed in (0, 0, 1)
        )
        pictures = drawn(opened, np.random.default_rng(0), reference="picture", count=20)
        assert [p.image for p in pictures] == [opened.thumbnail(str(q.image)) for q in first]
        everything = drawn(opened, np.random.default_rng(0), reference="id", count=10**6)
    assert first == again != other
    assert len({q.image for q in first}) == 20
    assert len({q.image for q in everything}) == 144
    assert len(readable(made_up(np.random.default_rng(0), 5), open_bundle(bundle))) == 5


def test_words_that_are_too_many_are_left_out(bundle: Path) -> None:
    asked = [Question(image="a", text=text) for text in ("in red", "very " * 99 + "red", " ")]
    opened = open_bundle(bundle)
    assert readable(asked, opened) == asked[:1]
    with pytest.raises(UsageError, match="none of the queries"):
        readable(asked[1:], opened)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scenario": "offlin"}, "scenario 'offlin'. Expected one of: single-stream"),
        ({"mode": "quick"}, "mode 'quick'"),
        ({"reference": "file"}, "reference 'file'"),
        ({"runs": 0}, "runs is 0. Expected 1 or more"),
        ({"warmup": -1}, "warmup is -1"),
        ({"batches": (0,)}, "batches"),
        ({"rerank": (-1,)}, "rerank"),
        ({"bound_ms": 0.0}, "bound_ms is 0"),
        ({"bound_ms": float("nan")}, "bound_ms is nan"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options(**settings)


def test_a_reranker_is_profiled_beside_pruning(reranking: Path, stocked: Path) -> None:
    own = read_manifest(reranking).rerank
    assert own is not None
    found = profile(reranking, stocked, options(runs=4))
    assert [r["rerank"] for r in found["results"]] == [0, own.candidates]
    pruned, reranked = (set(r["stages"]) for r in found["results"])
    assert "rerank" in reranked - pruned
    assert found["skipped"] == []


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_recall_is_of_the_mode_that_is_timed(reranking: Path, stocked: Path, mode: str) -> None:
    with Gallery.open(stocked) as opened:
        ids = opened.ids()
    asked = [Question(image=i, text="in red", targets=(ids[-1],), known=i) for i in ids[:8]]
    how = options(runs=8, rerank=(0, 100), mode=mode, reference="id", processes=1)
    found = profile(reranking, stocked, how, questions=asked, asked_of="made")
    with Retriever.open(reranking, stocked, threads=1) as retriever:
        for result in found["results"]:
            count = result["rerank"]
            ranked = [
                [h.id for h in retriever.search(i, "in red", k=50, rerank=count, mode=mode)]
                for i in ids[:8]
            ]
            for k in (1, 10, 50):
                expected = np.mean([ids[-1] in best[:k] for best in ranked])
                assert result["recall"][f"R@{k}"] == round(100 * expected, 2)
    assert all(result["cold_start_ms"] > 0 for result in found["results"])
