"""Self-training in rounds (LIMN+, arXiv 2305.09979): captions are written, judged and learnt from.

    begun.json                 the settings and pictures that the folder was begun with
    round-0/limn/              LIMN, trained on the labelled triplets
    pairs.jsonl                reference, target: pairs that nobody described
    round-1/captioner/         trained on the same triplets as the LIMN before it
    round-1/captions.jsonl     reference, target, caption: what it writes for the pairs
    round-1/kept.jsonl         the same with score and rank: the triplets that LIMN trusts
    round-1/limn/              the LIMN before it, trained on with labelled and kept triplets
    round-2/…

A run that was interrupted goes on after the last finished step and ends with the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cir_rt.config import to_dict
from cir_rt.errors import DataError
from cir_rt.export.train.filtering import Filtering, Found, find
from cir_rt.export.train.finished import Finished
from cir_rt.export.train.mining import Mining, mine


@dataclass(frozen=True, kw_only=True)
class SelfTraining:
    """How many rounds, and which pseudo-triplets join them."""

    rounds: int = 2
    weight: float = 0.5  # of a pseudo-triplet in the losses; a labelled one weighs 1
    mining: Mining = field(default_factory=Mining)
    filtering: Filtering = field(default_factory=Filtering)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}, expected at least 1")
        if not self.weight > 0:
            raise ValueError(f"weight is {self.weight:g}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """Two pictures by id, and the words that lead from one to the other; "" before any are."""

    reference: str
    target: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Training pictures, and none that another split ranks, with what is known about them."""

    ids: tuple[str, ...]
    labelled: tuple[Triplet, ...]  # of pictures among `ids`
    groups: tuple[str, ...] | None = None  # each picture's category, where one is known


class Steps(Protocol):
    """The work of a round; checkpoints are folders.

    A step that fills a folder `out` may find there what an interrupted call left. It goes on from
    that or starts anew, with the same result.
    """

    def train_limn(
        self, out: Path, *, start: Path | None, extra: Sequence[Triplet], weight: float
    ) -> None:
        """Train on labelled triplets and `extra` ones, whose losses weigh `weight`.

        From the LIMN `start`, or from scratch.
        """

    def train_captioner(
        self,
        out: Path,
        *,
        limn: Path,
        start: Path | None,
        extra: Sequence[Triplet],
        weight: float,
    ) -> None:
        """Train a captioner over the image tower of `limn`, from the captioner `start` if any."""

    def caption(self, captioner: Path, *, limn: Path, pairs: Sequence[Triplet]) -> Sequence[str]:
        """Return a caption for each pair; those of blanks alone are dropped."""

    def embed(self, limn: Path) -> np.ndarray:
        """Return the pool's vectors in the order of its ids, (pictures, dim) float32."""

    def ask(self, limn: Path, triplets: Sequence[Triplet]) -> np.ndarray:
        """Return the queries of references and captions, (triplets, dim) float32."""


def self_train(
    steps: Steps,
    pool: Pool,
    out: Path,
    settings: SelfTraining | None = None,
    *,
    start: Path | None = None,
    pairs: Sequence[Triplet] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Run the rounds in the folder `out`; return the last round's LIMN.

    `start` is a LIMN that stands in for round 0, `pairs` stand in for mined ones. `progress` is
    told each step that begins. Raises ConfigError where `out` was begun with something else (more
    rounds may follow any time), DataError where no pair is mined or none is kept.
    """
    settings = settings or SelfTraining()
    done = Finished(out, progress)
    done.begun_with("begun.json", _facts(pool, settings, start, pairs))
    rounds = _Rounds(steps, pool, settings, done)
    limn = start or rounds.limn("round-0", None, [])
    found = rounds.pairs(limn, pairs)
    captioner: Path | None = None
    kept: list[Triplet] = []
    for number in range(1, settings.rounds + 1):
        name = f"round-{number}"
        captioner = rounds.captioner(name, limn, captioner, kept)
        captioned = rounds.captions(name, limn, captioner, found)
        kept = rounds.kept(name, limn, captioned)
        limn = rounds.limn(name, limn, kept)
    return limn


class _Rounds:
    """The steps, each done once."""

    def __init__(self, steps: Steps, pool: Pool, settings: SelfTraining, done: Finished) -> None:
        self.steps, self.pool, self.settings, self.done = steps, pool, settings, done
        self.row = {picture: k for k, picture in enumerate(pool.ids)}
        self.groups = None if pool.groups is None else np.asarray(pool.groups)

    def limn(self, name: str, start: Path | None, extra: Sequence[Triplet]) -> Path:
        weight = self.settings.weight
        return self.done.folder(
            f"{name}/limn",
            lambda out: self.steps.train_limn(out, start=start, extra=extra, weight=weight),
        )

    def captioner(
        self, name: str, limn: Path, start: Path | None, extra: Sequence[Triplet]
    ) -> Path:
        weight = self.settings.weight
        return self.done.folder(
            f"{name}/captioner",
            lambda out: self.steps.train_captioner(
                out, limn=limn, start=start, extra=extra, weight=weight
            ),
        )

    def pairs(self, limn: Path, given: Sequence[Triplet] | None) -> list[Triplet]:
        def mined() -> Iterator[dict[str, Any]]:
            found = self._mined(limn) if given is None else given
            if not found:
                raise DataError(
                    f"no unlabelled pair among {len(self.pool.ids)} training pictures. "
                    "Raise mining.neighbours or mining.duplicate, or give pairs."
                )
            for pair in found:
                yield {"reference": pair.reference, "target": pair.target}

        return [Triplet(**line) for line in self.done.lines("pairs.jsonl", mined)]

    def captions(
        self, name: str, limn: Path, captioner: Path, pairs: Sequence[Triplet]
    ) -> list[Triplet]:
        def written() -> Iterator[dict[str, Any]]:
            texts = self.steps.caption(captioner, limn=limn, pairs=pairs)
            for pair, text in zip(pairs, texts, strict=True):
                if text.strip():
                    yield asdict(replace(pair, caption=text))

        return [Triplet(**line) for line in self.done.lines(f"{name}/captions.jsonl", written)]

    def kept(self, name: str, limn: Path, captioned: Sequence[Triplet]) -> list[Triplet]:
        def trusted() -> Iterator[dict[str, Any]]:
            vectors = self.steps.embed(limn)
            labelled = self._find(limn, vectors, self.pool.labelled)
            found = self._find(limn, vectors, captioned)
            places = np.flatnonzero(self.settings.filtering.keeps(found, labelled))
            if not len(places):
                raise DataError(
                    f"{name}: LIMN finds none of {len(captioned)} captioned pairs. "
                    "Raise filtering.rank or lower filtering.quantile, in another folder."
                )
            for k in places.tolist():
                judged = {"score": float(found.scores[k]), "rank": int(found.ranks[k])}
                yield asdict(captioned[k]) | judged

        lines = self.done.lines(f"{name}/kept.jsonl", trusted)
        known = [f.name for f in fields(Triplet)]
        return [Triplet(**{name: line[name] for name in known}) for line in lines]

    def _mined(self, limn: Path) -> list[Triplet]:
        rows = mine(
            self.steps.embed(limn),
            groups=self.groups,
            labelled=np.stack(self._rows(self.pool.labelled), axis=1),
            settings=self.settings.mining,
        )
        ids = self.pool.ids
        return [Triplet(reference=ids[a], target=ids[b]) for a, b in rows.tolist()]

    def _find(self, limn: Path, vectors: np.ndarray, triplets: Sequence[Triplet]) -> Found:
        if not triplets:
            return Found(scores=np.empty(0, np.float32), ranks=np.empty(0, np.int64))
        reference, target = self._rows(triplets)
        queries = self.steps.ask(limn, triplets)
        return find(queries, vectors, reference=reference, target=target, groups=self.groups)

    def _rows(self, triplets: Sequence[Triplet]) -> tuple[np.ndarray, np.ndarray]:
        """Return references' and targets' rows in the pool."""
        try:
            reference = [self.row[t.reference] for t in triplets]
            target = [self.row[t.target] for t in triplets]
        except KeyError as error:
            raise DataError(
                f"picture {error} stands in a triplet and not in the pool. "
                "Give every training picture that triplets name."
            ) from error
        return np.asarray(reference, np.int64), np.asarray(target, np.int64)


def _facts(
    pool: Pool, settings: SelfTraining, start: Path | None, pairs: Sequence[Triplet] | None
) -> dict[str, Any]:
    """Return what a folder's results depend on; how many rounds there are is not part of it."""
    facts = {k: v for k, v in to_dict(settings).items() if k != "rounds"}
    given: dict[str, Any] = {"pool": asdict(pool), "pairs": None}
    if pairs is not None:
        given["pairs"] = [asdict(pair) for pair in pairs]
    for name, value in given.items():
        facts[name] = hashlib.sha256(json.dumps(value).encode()).hexdigest()
    return facts | {"start": start and str(start)}
