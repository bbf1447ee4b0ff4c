"""Interrupt self-training at each of its steps; their work is a hash of what they are given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir_rt.errors import ConfigError, DataError
from cir_rt.export.train.filtering import Filtering
from cir_rt.export.train.finished import Finished
from cir_rt.export.train.mining import Mining
from cir_rt.export.train.self_training import Pool, SelfTraining, Triplet, self_train

IDS = tuple(f"p{k:02}" for k in range(19))
LABELLED = tuple(
    Triplet(reference=IDS[k], target=IDS[(3 * k + 1) % 19], caption=f"like {k}")
    for k in range(0, 19, 2)
)
POOL = Pool(ids=IDS, labelled=LABELLED)
SETTINGS = SelfTraining(mining=Mining(neighbours=3), filtering=Filtering(rank=5))


class Stop(Exception):
    """The power fails."""


class HashedSteps:
    """Steps whose results hang on all that they are given, and on nothing else."""

    def __init__(self, stop_at: int = -1) -> None:
        """Fail at the start of call `stop_at`, and for folders once a file of it is written."""
        self.calls = 0
        self.stop_at = stop_at

    def train_limn(
        self, out: Path, *, start: Path | None, extra: Sequence[Triplet], weight: float
    ) -> None:
        self._train(out, "limn", start and _read(start), list(extra), weight)

    def train_captioner(
        self, out: Path, *, limn: Path, start: Path | None, extra: Sequence[Triplet], weight: float
    ) -> None:
        self._train(out, "captioner", _read(limn), start and _read(start), list(extra), weight)

    def caption(self, captioner: Path, *, limn: Path, pairs: Sequence[Triplet]) -> list[str]:
        self._call()
        texts = [_digest(_read(captioner), _read(limn), pair)[:6] for pair in pairs]
        return [" " if text < "1" else text + "\u2028é" for text in texts]

    def embed(self, limn: Path) -> np.ndarray:
        self._call()
        return _vectors([_digest(_read(limn), picture) for picture in IDS])

    def ask(self, limn: Path, triplets: Sequence[Triplet]) -> np.ndarray:
        self._call()
        return _vectors([_digest(_read(limn), t.reference, t.caption) for t in triplets])

    def _train(self, out: Path, *given: object) -> None:
        (out / "half").touch()
        self._call()
        (out / "half").unlink()
        (out / "weights").write_text(_digest(*given), encoding="utf-8")

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            raise Stop


def _read(folder: Path) -> str:
    return (folder / "weights").read_text(encoding="utf-8")


def _digest(*given: object) -> str:
    return hashlib.sha256(repr(given).encode()).hexdigest()


def _vectors(digests: list[str]) -> np.ndarray:
    rows = [np.random.default_rng(int(d[:12], 16)).standard_normal(4) for d in digests]
    return np.asarray([row / np.linalg.norm(row) for row in rows], np.float32)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    last = self_train(HashedSteps(), POOL, folder, SETTINGS)
    assert last == folder / "round-2/limn"
    return contents(folder)


def test_a_run_leaves_its_steps(whole: dict[str, bytes]) -> None:
    rounds = [
        f"round-{n}/{name}"
        for n in (1, 2)
        for name in ("captioner/weights", "captions.jsonl", "kept.jsonl", "limn/weights")
    ]
    assert sorted(whole) == sorted(["begun.json", "pairs.jsonl", "round-0/limn/weights", *rounds])
    pairs = [json.loads(line) for line in whole["pairs.jsonl"].splitlines()]
    described = {(t.reference, t.target) for t in LABELLED}
    assert len(pairs) == 3 * 19
    assert not described & {(p["reference"], p["target"]) for p in pairs}
    for number in (1, 2):
        captioned = [json.loads(x) for x in whole[f"round-{number}/captions.jsonl"].splitlines()]
        kept = [json.loads(x) for x in whole[f"round-{number}/kept.jsonl"].splitlines()]
        assert 0 < len(kept) < len(captioned) < len(pairs)  # some are blank, some are not found
        assert all(line["caption"].strip() for line in captioned)
        written = [tuple(line.values()) for line in captioned]
        assert all((k["reference"], k["target"], k["caption"]) in written for k in kept)


@pytest.mark.parametrize("stop_at", range(1, 30))
def test_an_interrupted_run_ends_with_the_same_files(
    stop_at: int, whole: dict[str, bytes], tmp_path: Path
) -> None:
    steps = HashedSteps(stop_at)
    try:
        self_train(steps, POOL, tmp_path, SETTINGS)
    except Stop:
        before = {k: v for k, v in contents(tmp_path).items() if ".partial" not in k}
        assert before.items() < whole.items()  # what stands there is finished
        self_train(HashedSteps(), POOL, tmp_path, SETTINGS)
    else:
        assert stop_at > 14  # each of the steps has been stopped at
        assert steps.calls < stop_at
    assert contents(tmp_path) == whole


def test_every_step_fails_in_turn(whole: dict[str, bytes], tmp_path: Path) -> None:
    """A run that gets one call further each time, as on a machine that is taken away."""
    for _ in range(40):
        try:
            self_train(HashedSteps(4), POOL, tmp_path, SETTINGS)
        except Stop:
            continue
        break
    assert contents(tmp_path) == whole


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    told: list[str] = []
    self_train(HashedSteps(), POOL, tmp_path, SETTINGS, progress=told.append)
    assert told[:4] == ["begun.json", "round-0/limn", "pairs.jsonl", "round-1/captioner"]
    steps = HashedSteps()
    again: list[str] = []
    last = self_train(steps, POOL, tmp_path, SETTINGS, progress=again.append)
    assert last == tmp_path / "round-2/limn"
    assert steps.calls == 0
    assert again == []


def test_more_rounds_go_on_from_the_last(whole: dict[str, bytes], tmp_path: Path) -> None:
    self_train(HashedSteps(), POOL, tmp_path, replace(SETTINGS, rounds=1))
    self_train(HashedSteps(), POOL, tmp_path, SETTINGS)
    assert contents(tmp_path) == whole


def test_other_settings_are_refused(tmp_path: Path) -> None:
    self_train(HashedSteps(), POOL, tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match="begun with other weight"):
        self_train(HashedSteps(), POOL, tmp_path, replace(SETTINGS, weight=1.0))
    other, fewer = replace(SETTINGS, filtering=Filtering(rank=6)), LABELLED[1:]
    with pytest.raises(ConfigError, match="begun with other filtering, pool"):
        self_train(HashedSteps(), replace(POOL, labelled=fewer), tmp_path, other)


def test_a_trained_limn_and_known_pairs_may_be_given(tmp_path: Path) -> None:
    start = tmp_path / "before"
    start.mkdir()
    (start / "weights").write_text("before", encoding="utf-8")
    given = [Triplet(reference=IDS[k], target=IDS[k + 1]) for k in range(18)]
    out = tmp_path / "out"
    self_train(HashedSteps(), POOL, out, SETTINGS, start=start, pairs=given)
    assert not (out / "round-0").exists()
    lines = (out / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(x) for x in lines] == [
        {"reference": p.reference, "target": p.target} for p in given
    ]
    with pytest.raises(ConfigError, match="begun with other pairs"):
        self_train(HashedSteps(), POOL, out, SETTINGS, start=start, pairs=given[1:])


def test_groups_hold_pairs_together(tmp_path: Path) -> None:
    groups = tuple("ab"[k % 2] for k in range(19))
    self_train(HashedSteps(), replace(POOL, groups=groups), tmp_path, SETTINGS)
    for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        assert int(pair["reference"][1:]) % 2 == int(pair["target"][1:]) % 2


def test_rounds_that_find_nothing_are_refused(tmp_path: Path) -> None:
    strict = replace(SETTINGS, filtering=Filtering(rank=0, quantile=1))
    with pytest.raises(DataError, match=r"round-1: LIMN finds none of \d+ captioned pairs"):
        self_train(HashedSteps(), replace(POOL, labelled=()), tmp_path / "a", strict)
    alike = replace(SETTINGS, mining=Mining(duplicate=-0.999))
    with pytest.raises(DataError, match="no unlabelled pair among 19 training pictures"):
        self_train(HashedSteps(), POOL, tmp_path / "b", alike)
    strange = replace(POOL, ids=IDS[1:])
    with pytest.raises(DataError, match="picture 'p00' stands in a triplet and not in the pool"):
        self_train(HashedSteps(), strange, tmp_path / "c", SETTINGS)


def test_a_step_is_done_once(tmp_path: Path) -> None:
    done = Finished(tmp_path)

    def fails(out: Path) -> None:
        (out / "half").touch()
        raise Stop

    def goes_on(out: Path) -> None:
        assert [p.name for p in out.iterdir()] == ["half"]

    with pytest.raises(Stop):
        done.folder("a/b", fails)
    assert not (tmp_path / "a/b").exists()
    assert done.folder("a/b", goes_on) == tmp_path / "a/b"
    assert done.folder("a/b", fails) == tmp_path / "a/b"
    rows = [{"text": "one\u2028line\n", "score": 0.1 + 0.2}]
    assert done.lines("c.jsonl", lambda: rows) == rows
    assert done.lines("c.jsonl", list) == rows
    assert not list(tmp_path.rglob("*.partial"))
