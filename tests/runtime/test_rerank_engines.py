"""The re-ranker of a bundle, held against numpy: scores, cascade, deadlines."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_reranker import EARLY, PLACES, SIZE, WIDTH, Oracle, as_stored, oracle, reranking_bundle

from cir_rt.bundle import open_bundle
from cir_rt.cascade import survivors
from cir_rt.deadline import Deadline
from cir_rt.engines.protocol import TensorSpec
from cir_rt.errors import BundleError, TextError, UsageError
from cir_rt.gallery.rowformat import RowFormat
from cir_rt.rerank import Ranked, Reranker, Tokens

TEXT = "the same but in red"
COUNT = 37
ROWS = RowFormat(precision="int8", shape=(PLACES, WIDTH))


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reranking_bundle(bundle, tmp_path_factory.mktemp("rerank") / "codes.cir")


@pytest.fixture(scope="module")
def model(folder: Path) -> Oracle:
    return oracle(folder)


@pytest.fixture(scope="module", params=["codes", "floats"])
def reranker(
    request: pytest.FixtureRequest,
    bundle: Path,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Reranker]:
    if request.param == "floats":
        other = tmp_path_factory.mktemp("rerank") / "floats.cir"
        folder = reranking_bundle(bundle, other, codes=False)
    opened = Reranker.open(open_bundle(folder), threads=1)
    yield opened
    opened.close()


class Stored:
    """Candidates' tokens as a gallery stores them, and which were asked for."""

    def __init__(self, count: int = COUNT, *, codes: bool = True, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        tokens = rng.standard_normal((count, PLACES, WIDTH)).astype(np.float32)
        self.rows, self.codes = ROWS.encode(tokens), codes
        self.tokens = ROWS.decode(self.rows)
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> Tokens:
        self.asked.append((start, stop))
        if not self.codes:
            return self.tokens[start:stop]
        rows = self.rows[start:stop]
        return np.ascontiguousarray(rows["codes"]), np.ascontiguousarray(rows["scales"])


def asked(reranker: Reranker, model: Oracle, seed: int = 5) -> tuple[Any, Any]:
    """Return a query's state from the engine, and from the oracle."""
    (reference,) = as_stored(np.random.default_rng(seed).standard_normal((PLACES, WIDTH)))
    ids = reranker.tokenizer([TEXT])[0]
    return reranker.query(TEXT, reference), model.state(ids, reference)


def brute_fast(whole: np.ndarray, early: np.ndarray, margin: float, least: int) -> list[int]:
    """Return the order that the cascade has by its rule: survivors by score, the rest by early."""
    kept = survivors(early, margin, least)
    return [
        *sorted(np.flatnonzero(kept), key=lambda n: -whole[n]),
        *sorted(np.flatnonzero(~kept), key=lambda n: -early[n]),
    ]


@pytest.mark.parametrize("count", [1, 7, 19, 111])
def test_tokens_of_pictures(reranker: Reranker, model: Oracle, count: int) -> None:
    pixels = np.random.default_rng(count).standard_normal((count, 3, SIZE, SIZE), np.float32)
    np.testing.assert_allclose(reranker.encode_tokens(pixels), model.tokens(pixels), atol=1e-5)
    assert reranker.encode_tokens(pixels[:0]).shape == (0, PLACES, WIDTH)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 19, 37, 111])
def test_exact_order_is_that_of_the_oracle(reranker: Reranker, model: Oracle, count: int) -> None:
    stored = Stored(count, codes=reranker.takes_codes)
    state, expected = asked(reranker, model)
    ranked = reranker.rank(state, stored, count)
    scores = model.scores(expected, stored.tokens)
    np.testing.assert_allclose(ranked.scores, scores, atol=1e-5)
    assert ranked.order().tolist() == np.argsort(-scores, kind="stable").tolist()
    assert (ranked.full_depth, ranked.reached, ranked.complete) == (count, count, True)
    assert [start for start, _ in stored.asked] == [0, *(stop for _, stop in stored.asked[:-1])]
    assert max(stop - start for start, stop in stored.asked) <= 8


def test_no_candidates(reranker: Reranker, model: Oracle) -> None:
    state, _ = asked(reranker, model)
    for mode in ("exact", "fast"):
        ranked = reranker.rank(state, Stored(0), 0, mode=mode)
        assert (len(ranked.scores), ranked.complete, ranked.order().tolist()) == (0, True, [])


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("least", [1, 6, 50])
def test_fast_order_is_that_of_a_brute_force_cascade(
    reranker: Reranker,
    model: Oracle,
    margin: float,
    least: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = Stored(codes=reranker.takes_codes)
    state, expected = asked(reranker, model)
    chosen = replace(reranker.settings, margin=margin, least=least)
    monkeypatch.setattr(reranker, "settings", chosen)
    ranked = reranker.rank(state, stored, COUNT, mode="fast")
    whole, early = (model.scores(expected, stored.tokens, n) for n in (PLACES, EARLY))
    assert ranked.order().tolist() == brute_fast(whole, early, margin, least)
    assert (np.diff(ranked.scores[ranked.order()]) <= 0).all()
    deep = ranked.order()[: ranked.full_depth]
    np.testing.assert_allclose(
        ranked.scores[deep], model.scores(expected, stored.tokens)[deep], atol=1e-5
    )
    assert ranked.scores[ranked.order()[ranked.full_depth :]].max(initial=-9) < min(
        ranked.scores[deep]
    )
    assert (ranked.complete, ranked.reached) == (True, COUNT)
    assert ranked.full_depth >= min(least, COUNT)
    if margin == 5:  # nothing is dropped: what exact gives
        exact = reranker.rank(state, Stored(codes=reranker.takes_codes), COUNT)
        np.testing.assert_allclose(ranked.scores, exact.scores, atol=1e-5)


def test_inner_products_count_for_what_the_settings_say(
    reranker: Reranker, model: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Stored(codes=reranker.takes_codes)
    state, expected = asked(reranker, model)
    pruned = np.random.default_rng(3).uniform(-1, 1, COUNT).astype(np.float32)
    chosen = replace(reranker.settings, margin=0.3, least=3, prune_weight=0.4)
    monkeypatch.setattr(reranker, "settings", chosen)
    whole, early = (model.scores(expected, stored.tokens, n) for n in (PLACES, EARLY))
    ranked = reranker.rank(state, stored, COUNT, pruned=pruned)
    np.testing.assert_allclose(ranked.scores, whole + 0.4 * pruned, atol=1e-5)
    ranked = reranker.rank(state, stored, COUNT, pruned=pruned, mode="fast")
    wanted = brute_fast(whole + 0.4 * pruned, early + 0.4 * pruned, 0.3, 3)
    assert ranked.order().tolist() == wanted != brute_fast(whole, early, 0.3, 3)


def test_longer_padding_changes_nothing(reranker: Reranker, model: Oracle) -> None:
    (reference,) = as_stored(np.random.default_rng(5).standard_normal((PLACES, WIDTH)))
    words = TEXT.split()
    for count in range(1, len(words) + 1):
        text = " ".join(words[:count])
        found = reranker.query(text, reference)
        want = model.state(reranker.tokenizer([text])[0], reference)
        np.testing.assert_allclose(found["asked"][0], want[0], atol=1e-5)
        np.testing.assert_allclose(found["lean"][0], want[1], atol=1e-5)


def test_texts_meet_few_lengths(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    engine = reranker._engines["rerank_query"]
    run = engine.run

    def watched(inputs: Any, *rest: Any) -> Any:
        seen.append(inputs["ids"].shape[1])
        return run(inputs, *rest)

    monkeypatch.setattr(engine, "run", watched)
    reference = np.zeros((PLACES, WIDTH), np.float32)
    for count in range(1, 6):
        reranker.query(" ".join(["red"] * count), reference)
    reranker.query("red " * 50, reference, truncate=True)
    assert set(seen) <= {4, 8, 12, 14}
    with pytest.raises(TextError, match="at most 14"):
        reranker.query("red " * 50, reference)


def test_modes_that_are_not_there(bundle: Path, tmp_path: Path, reranker: Reranker) -> None:
    with pytest.raises(UsageError, match=r"'slow'\. Expected one of: exact, fast"):
        reranker.check_mode("slow")
    plain = reranking_bundle(bundle, tmp_path / "plain.cir", cascade=False)
    opened = Reranker.open(open_bundle(plain), threads=1)
    opened.check_mode("exact")
    with pytest.raises(UsageError, match="no cascade"):
        opened.rank({}, Stored(), COUNT, mode="fast")


def test_a_bundle_without_settings_is_refused(folder: Path, bundle: Path) -> None:
    opened = open_bundle(folder)
    for changes in ({"rerank": None}, {"fingerprints": open_bundle(bundle).manifest.fingerprints}):
        with pytest.raises(BundleError, match="lacks settings of the re-ranker"):
            Reranker.open(replace(opened, manifest=replace(opened.manifest, **changes)))


class Renamed:
    """An engine whose inputs go by other names."""

    def __init__(self, engine: Any, old: str, new: str) -> None:
        self.inputs = tuple(replace(s, name=new) if s.name == old else s for s in engine.inputs)
        self.outputs: tuple[TensorSpec, ...] = engine.outputs


@pytest.mark.parametrize("role", ["rerank", "rerank_early", "rerank_late", "rerank_image"])
def test_engines_that_do_not_fit_together_are_refused(reranker: Reranker, role: str) -> None:
    engines: dict[str, Any] = dict(reranker._engines)
    old = engines[role].inputs[0].name
    with pytest.raises(BundleError, match=f"{role}: asks for stranger"):
        parts(reranker, {**engines, role: Renamed(engines[role], old, "stranger")})
    if role != "rerank_image":
        with pytest.raises(BundleError, match="candidates' tokens"):
            parts(reranker, {**engines, "rerank": Renamed(engines["rerank"], "tokens", "scales")})


def parts(reranker: Reranker, engines: dict[str, Any]) -> Reranker:
    return Reranker(
        settings=reranker.settings,
        fingerprint=reranker.fingerprint,
        preprocess=reranker.preprocess,
        tokenizer=reranker.tokenizer,
        engines=engines,
    )


class Timed:
    """An engine on a clock of its own: each row takes it some milliseconds."""

    def __init__(self, engine: Any, clock: Clock, ms_per_row: float, factor: float = 1.0) -> None:
        self._engine, self._clock = engine, clock
        self.ms_per_row, self.factor = ms_per_row, factor
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.rows: list[int] = []

    def run(self, inputs: Any) -> Any:
        rows = len(inputs["tokens"])
        self.rows.append(rows)
        self._clock.now_s += rows * self.ms_per_row * self.factor / 1000
        return self._engine.run(inputs)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def after(self, ms: float) -> Deadline:
        return Deadline(at_s=self.now_s + ms / 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "perf_counter", found)
    return found


def timed(reranker: Reranker, clock: Clock) -> tuple[Reranker, dict[str, Timed]]:
    """Return a re-ranker whose rows take 4 ms, 1 ms at the early and 3 ms at the late layers."""
    engines: dict[str, Any] = dict(reranker._engines)
    paces = {"rerank": 4.0, "rerank_early": 1.0, "rerank_late": 3.0}
    slow = {role: Timed(engines[role], clock, ms) for role, ms in paces.items()}
    return parts(reranker, {**engines, **slow}), slow


@pytest.mark.parametrize("left_ms", [0.5, 8, 15, 31, 60, 100, 147, 152, 1000])
def test_a_deadline_cuts_between_buckets(
    reranker: Reranker, model: Oracle, clock: Clock, left_ms: float
) -> None:
    slow, _ = timed(reranker, clock)
    state, expected = asked(slow, model)
    scores = model.scores(expected, Stored().tokens)
    slow.rank(state, Stored(codes=slow.takes_codes), 2)  # it knows its pace
    due = clock.after(left_ms)
    ranked = slow.rank(state, Stored(codes=slow.takes_codes), COUNT, deadline=due)
    assert due.left_ms >= -1e-6  # kept
    done = ranked.reached
    assert ranked.complete == (done == COUNT)
    assert done == min(COUNT, 2 * int(left_ms // 8))  # as many pairs of 4 ms each as fit
    np.testing.assert_allclose(ranked.scores[:done], scores[:done], atol=1e-5)
    assert np.isnan(ranked.scores[done:]).all()
    best = np.argsort(-scores[:done], kind="stable").tolist()
    assert ranked.order().tolist() == [*best, *range(done, COUNT)]


def test_a_first_run_under_a_deadline_is_a_small_one(
    reranker: Reranker, model: Oracle, clock: Clock
) -> None:
    slow, engines = timed(reranker, clock)
    state, _ = asked(slow, model)
    due = clock.after(40)
    ranked = slow.rank(state, Stored(codes=slow.takes_codes), COUNT, deadline=due)
    assert engines["rerank"].rows == [2, 8]
    assert (ranked.reached, ranked.complete) == (10, False)


def test_time_that_is_up_runs_nothing(reranker: Reranker, model: Oracle, clock: Clock) -> None:
    slow, engines = timed(reranker, clock)
    state, _ = asked(slow, model)
    for mode in ("exact", "fast"):
        stored = Stored(codes=slow.takes_codes)
        ranked = slow.rank(state, stored, COUNT, mode=mode, deadline=clock.after(0))
        assert ranked.order().tolist() == list(range(COUNT))
        assert (ranked.reached, ranked.full_depth, ranked.complete) == (0, 0, False)
        assert stored.asked == []
    assert not any(engine.rows for engine in engines.values())
    assert not slow.in_time(clock.after(0), picture=False)
    assert slow.in_time(Deadline(), picture=True)


def test_a_hiccup_is_got_over(reranker: Reranker, model: Oracle, clock: Clock) -> None:
    slow, engines = timed(reranker, clock)
    state, _ = asked(slow, model)

    def reached(ms: float) -> int:
        stored = Stored(codes=slow.takes_codes)
        return slow.rank(state, stored, COUNT, deadline=clock.after(ms)).reached

    reached(200)
    engines["rerank"].factor = 100
    assert reached(200) < COUNT
    engines["rerank"].factor = 1
    assert [reached(200) for _ in range(30)][-1] == COUNT


@pytest.mark.parametrize("left_ms", [1, 9, 20, 36, 39, 44, 60, 90, 1000])
def test_fast_under_a_deadline_goes_deep_on_the_best_first(
    reranker: Reranker, model: Oracle, clock: Clock, left_ms: float
) -> None:
    slow, _ = timed(reranker, clock)
    state, expected = asked(slow, model)
    slow.rank(state, Stored(codes=slow.takes_codes), 2, mode="fast")
    due = clock.after(left_ms)
    stored = Stored(codes=slow.takes_codes)
    ranked = slow.rank(state, stored, COUNT, mode="fast", deadline=due)
    assert due.left_ms >= -1e-6
    read = ranked.reached
    early = model.scores(expected, stored.tokens, EARLY)[:read]
    whole = model.scores(expected, stored.tokens)[:read]
    ranks = sorted(range(read), key=lambda n: -early[n])
    deep, rest = ranks[: ranked.full_depth], ranks[ranked.full_depth :]
    expected_order = [*sorted(deep, key=lambda n: -whole[n]), *rest, *range(read, COUNT)]
    assert ranked.order().tolist() == expected_order
    assert (np.diff(ranked.scores[ranked.order()[:read]]) <= 0).all()
    assert ranked.complete == (left_ms >= 90)


def test_scores_that_are_no_numbers_are_an_error(reranker: Reranker, model: Oracle) -> None:
    state, _ = asked(reranker, model)
    broken = {**state, "asked": np.full_like(state["asked"], np.nan)}
    with pytest.raises(BundleError, match="no numbers"):
        reranker.rank(broken, Stored(codes=reranker.takes_codes), COUNT)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_memory_does_not_grow_with_the_candidates(
    reranker: Reranker, model: Oracle, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranker, "settings", replace(reranker.settings, margin=0.01))
    state, _ = asked(reranker, model)

    def made(start: int, stop: int) -> Tokens:
        return Stored(stop - start, codes=reranker.takes_codes, seed=start)(0, stop - start)

    peaks = []
    for count in (40, 40, 1000):
        tracemalloc.start()
        ranked = reranker.rank(state, made, count, mode=mode)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert ranked.full_depth <= (1000 if mode == "exact" else 100)  # the rest was let go
    handed = PLACES * WIDTH * (1 if reranker.takes_codes else 4)  # bytes of a candidate
    assert peaks[2] - peaks[1] < 960 * handed / 3


def test_ranked_none() -> None:
    ranked = Ranked.none(3)
    assert (ranked.order().tolist(), ranked.reached, ranked.complete) == ([0, 1, 2], 0, False)
    assert Ranked.none(0).complete
