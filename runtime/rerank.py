"""The re-ranker of a bundle: reference, words and candidate are read together.

What depends on the query alone is computed once (`query`) and then held against the candidates'
tokens, bucket by bucket (`rank`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cir_rt.buckets import bucket_length, first_bucket
from cir_rt.bundle import Bundle, RerankSettings
from cir_rt.cascade import Survivors
from cir_rt.deadline import Deadline, Pace
from cir_rt.engines import Engine, open_engine
from cir_rt.errors import BundleError, UsageError
from cir_rt.gallery.facts import TokenFormat
from cir_rt.modes import MODES
from cir_rt.preprocess import Preprocess
from cir_rt.text import Tokenizer
from cir_rt.tiers import lowered

_IMAGE, _QUERY, _WHOLE = "rerank_image", "rerank_query", "rerank"
_EARLY, _LATE = "rerank_early", "rerank_late"
_TOGETHER = 8  # pictures in one run of the image engine

State = Mapping[str, np.ndarray]  # what depends on the query alone, by name
# Some candidates' tokens: codes (n, places, width) int8 with scales (n, places) float32, or
# (n, places, width) float32, as the engine takes them.
Tokens = np.ndarray | tuple[np.ndarray, ...]
Fetch = Callable[[int, int], Tokens]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """What re-ranking made of some candidates, in the order in which they were pruned.

    Those that only the early layers read stand below all that went the full depth: their scores
    are lowered by a constant where that takes it.
    """

    scores: np.ndarray  # (count,) float32, higher is better; NaN where time was up before
    full_depth: int  # candidates that all layers read
    complete: bool  # False where a deadline left some out, or left some at the early layers

    @property
    def reached(self) -> int:
        """Candidates that have a score."""
        return int(np.count_nonzero(~np.isnan(self.scores)))

    def order(self) -> np.ndarray:
        """Return the places of the candidates, best first; those without a score stay last."""
        return np.argsort(-self.scores, kind="stable")

    @classmethod
    def none(cls, count: int) -> Ranked:
        """Return what is known of candidates when there was no time for any."""
        return cls(scores=np.full(count, np.nan, np.float32), full_depth=0, complete=not count)


class _Run(NamedTuple):
    """Candidates of one run of an engine; those that the bucket lacks are padding."""

    start: int
    stop: int
    bucket: int


class Reranker:
    """Image engine, query engine and scoring engines of one bundle, owned by one thread."""

    def __init__(
        self,
        *,
        settings: RerankSettings,
        fingerprint: str,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        engines: Mapping[str, Engine],
    ) -> None:
        """Take the parts by role; `open` makes them from a bundle.

        Raises BundleError where the engines do not fit together.
        """
        self.settings = settings
        self.fingerprint = fingerprint
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.image = engines[_IMAGE]
        self._engines = dict(engines)
        self._paces = {role: Pace() for role in engines}
        _check_names(self._engines)
        dtypes = {spec.name: spec.dtype for spec in engines[_WHOLE].inputs}
        self.takes_codes = dtypes["tokens"] == "int8"  # with scales; else float32

    @classmethod
    def open(cls, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> Reranker:
        """Load a bundle's re-ranker. Raises BundleError, and what `open_engine` raises."""
        manifest = bundle.manifest
        image, query = bundle.role(_IMAGE), bundle.role(_QUERY)
        settings, fingerprint = manifest.rerank, manifest.fingerprints.tokens
        if settings is None or fingerprint is None or image.preprocess is None or not query.text:
            raise BundleError(f"{bundle.folder}: the manifest lacks settings of the re-ranker.")
        roles = [_IMAGE, _QUERY, _WHOLE]
        roles += [_EARLY, _LATE] if settings.margin is not None else []
        return cls(
            settings=settings,
            fingerprint=fingerprint,
            preprocess=image.preprocess,
            tokenizer=Tokenizer(
                bundle.path(query.text.tokenizer),
                context=query.text.context,
                pad_id=query.text.pad_id,
            ),
            engines={
                role: open_engine(bundle, role, device=device, threads=threads) for role in roles
            },
        )

    @property
    def token_format(self) -> TokenFormat:
        """What a gallery stores for it."""
        return TokenFormat(
            fingerprint=self.fingerprint,
            count=self.settings.places,
            width=self.settings.width,
            precision=self.settings.token_precision,
        )

    def check_mode(self, mode: str) -> None:
        """Raise UsageError for a mode that this re-ranker does not have."""
        if mode not in MODES:
            raise UsageError(f"mode is '{mode}'. Expected one of: {', '.join(MODES)}.")
        if mode == "fast" and _LATE not in self._engines:
            raise UsageError("mode is fast, but this bundle's re-ranker has no cascade. Say exact.")

    def encode_tokens(self, pixels: np.ndarray) -> np.ndarray:
        """Return tokens (n, places, width) float32 of pictures (n, 3, size, size) float32."""
        parts = [
            self._run(_IMAGE, len(part), {"pixels": part})["tokens"]
            for part in (pixels[k : k + _TOGETHER] for k in range(0, len(pixels), _TOGETHER))
        ]
        shape = (0, self.settings.places, self.settings.width)
        return np.concatenate(parts) if parts else np.zeros(shape, np.float32)

    def query(self, text: str, reference_tokens: np.ndarray, *, truncate: bool = False) -> State:
        """Return what depends on the query alone, of its words and (places, width) float32.

        Raises TextError as the tokenizer does.
        """
        ids = self.tokenizer([text], truncate=truncate)
        length = bucket_length(ids.shape[1], self.tokenizer.context)
        padded = np.full((1, length), self.tokenizer.pad_id, np.int64)
        padded[:, : ids.shape[1]] = ids
        reference = np.ascontiguousarray(reference_tokens, np.float32)[None]
        return self._run(_QUERY, 1, {"ids": padded, "reference": reference})

    def rank(
        self,
        state: State,
        fetch: Fetch,
        count: int,
        *,
        pruned: np.ndarray | float = 0.0,
        mode: str = "exact",
        deadline: Deadline | None = None,
    ) -> Ranked:
        """Score `count` candidates, as far as the deadline lets it.

        `pruned` (count,) are their inner products, of which the settings say what they count for.
        `fetch(start, stop)` gives their tokens in the order in which they were pruned, each once
        and a bucket at a time; no more than that is held, but for what `fast` carries on of those
        that will go the full depth. Raises UsageError for a mode that it does not have.
        """
        self.check_mode(mode)
        prior = np.full(count, self.settings.prune_weight * pruned, np.float32)
        if mode == "fast":
            return self._fast(state, fetch, prior, deadline or Deadline())
        scores = np.full(count, np.nan, np.float32)
        done = 0
        for run in self._runs(_WHOLE, count, deadline or Deadline()):
            tokens = _named(fetch(run.start, run.stop))
            scores[run.start : run.stop] = self._scored(_WHOLE, run, state, tokens)["scores"]
            done = run.stop
        return Ranked(scores=scores + prior, full_depth=done, complete=done == count)

    def first_run(self, count: int) -> int:
        """Return how many of `count` candidates the first run takes if time allows."""
        return min(count, first_bucket(count, self.settings.buckets)) if count else 0

    def in_time(self, deadline: Deadline, *, picture: bool) -> bool:
        """Tell whether a query's state can be expected before the deadline.

        `picture` says that the reference's tokens have to be encoded first.
        """
        roles = (_IMAGE, _QUERY) if picture else (_QUERY,)
        return all(self._paces[role].fitting((1,), deadline) for role in roles)

    def close(self) -> None:
        """Release the engines."""
        for engine in self._engines.values():
            engine.close()

    def _fast(self, state: State, fetch: Fetch, prior: np.ndarray, deadline: Deadline) -> Ranked:
        """Let the early layers read all, and the late ones those that deserve it, best first.

        Scores begin at `prior`, (candidates,) float32.
        """
        count = len(prior)
        margin, least = self.settings.margin, self.settings.least
        assert margin is not None
        early = np.full(count, np.nan, np.float32)
        alive, read = Survivors(margin=margin, least=least), 0
        for run in self._runs(_EARLY, count, deadline):
            tokens = _named(fetch(run.start, run.stop))
            found = self._scored(_EARLY, run, state, tokens)
            early[run.start : run.stop] = scores = found.pop("scores") + prior[run.start : run.stop]
            alive.add(run.start, scores, {**tokens, **found})
            read = run.stop
        alive.rank()
        whole = np.full(count, np.nan, np.float32)
        done = 0
        for run in self._runs(_LATE, len(alive), deadline):
            held = alive.held(run.start, run.stop)
            places = alive.places[run.start : run.stop]
            whole[places] = self._scored(_LATE, run, state, held)["scores"] + prior[places]
            done = run.stop
        rest = np.isnan(whole) & ~np.isnan(early)
        whole[rest] = lowered(early[rest], whole[alive.places[:done]].min(initial=np.inf))
        complete = read == count and done == len(alive)
        return Ranked(scores=whole, full_depth=done, complete=complete)

    def _runs(self, role: str, count: int, deadline: Deadline) -> Iterator[_Run]:
        """Yield the next candidates to read, as long as there are some that fit in the time."""
        start, buckets = 0, self.settings.buckets
        while start < count:
            wanted = first_bucket(count - start, buckets)
            sizes = [size for size in buckets if size <= wanted]
            bucket = self._paces[role].fitting(sizes, deadline)
            if not bucket:
                return
            stop = min(start + bucket, count)
            yield _Run(start, stop, bucket)
            start = stop

    def _scored(
        self, role: str, run: _Run, state: State, rows: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Run an engine on a bucket of candidates and return its outputs, padding dropped."""
        padded = {name: _padded(array, run.bucket) for name, array in rows.items()}
        found = self._run(role, run.bucket, {**state, **padded})
        if not np.isfinite(found["scores"]).all():
            raise BundleError(
                f"{role}: scores that are no numbers. Build it in another precision:  "
                "cir-rt build-engine MODEL --precision fp32 --out BUNDLE"
            )
        return {name: array[: run.stop - run.start] for name, array in found.items()}

    def _run(self, role: str, rows: int, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run an engine on those arrays that it takes, and note how long it took."""
        engine, start = self._engines[role], time.perf_counter()
        found = engine.run({spec.name: given[spec.name] for spec in engine.inputs})
        self._paces[role].took(rows, 1000 * (time.perf_counter() - start))
        return found


def _check_names(engines: Mapping[str, Engine]) -> None:
    """Raise BundleError where an engine asks for what none before it gives."""
    state = {spec.name for spec in engines[_QUERY].outputs}
    known = {_IMAGE: {"pixels"}, _QUERY: {"ids", "reference"}}
    candidates = {"tokens", "scales"} | state
    if _EARLY in engines:
        carried = {spec.name for spec in engines[_EARLY].outputs} - {"scores"}
        known |= {_EARLY: candidates, _LATE: candidates | carried}
    for role, engine in engines.items():
        names = {spec.name for spec in engine.inputs}
        if strays := names - known.get(role, candidates):
            raise BundleError(
                f"{role}: asks for {', '.join(sorted(strays))}, which no engine gives. {_BUILD}"
            )
        if role in (_WHOLE, _EARLY) and "tokens" not in names:
            raise BundleError(f"{role}: does not ask for the candidates' tokens. {_BUILD}")


_BUILD = "Build them together:  cir-rt build-engine MODEL --out BUNDLE"


def _named(tokens: Tokens) -> dict[str, np.ndarray]:
    """Return candidates' tokens by the names of an engine's inputs."""
    if isinstance(tokens, np.ndarray):
        return {"tokens": tokens}
    return dict(zip(("tokens", "scales"), tokens, strict=False))


def _padded(rows: np.ndarray, bucket: int) -> np.ndarray:
    """Return rows up to the size of the bucket, the last one repeated."""
    lacking = bucket - len(rows)
    return np.concatenate([rows, rows[-1:].repeat(lacking, 0)]) if lacking else rows
