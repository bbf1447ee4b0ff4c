"""A profile from beginning to end: what is opened, asked and written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cir_rt import machine
from cir_rt.bundle import Bundle, Manifest, open_bundle
from cir_rt.encoder import Encoder
from cir_rt.errors import BackendMissing, UsageError
from cir_rt.gallery import Gallery
from cir_rt.profile.cold_start import cold_starts, medians
from cir_rt.profile.energy import Meter, find_meter
from cir_rt.profile.measure import Rig, measure
from cir_rt.profile.noise import governors, judged, load_average, spin
from cir_rt.profile.options import SCENARIOS, ProfileOptions
from cir_rt.profile.questions import Question, drawn, made_up, readable
from cir_rt.profile.subject import Encoders, Subject, WholeQuery, reranking
from cir_rt.retriever import Retriever

STEADY = 20  # queries after the first of a fresh process
NO_GALLERY = "no gallery was given: the encoders and the composition alone were measured"


def profile(
    bundle: Path,
    gallery: Path | None = None,
    options: ProfileOptions | None = None,
    *,
    questions: Sequence[Question] = (),
    asked_of: str = "made up",
    say: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Measure a bundle and return the object of `cir-rt profile --json`.

    `questions` are a dataset's, named by `asked_of`; without them some are made up. Without a
    gallery the encoders alone are measured. Raises what `Retriever.open` raises, and UsageError.
    """
    options = options or ProfileOptions()
    opened = open_bundle(bundle)
    counts, skipped = _counts(options, opened.manifest, gallery)
    asked = _questions(opened, gallery, options, questions)
    meter, unmeasured = _meter(options.device)
    load, before = load_average(), spin()
    results = []
    subject = _opened(opened, gallery, options)
    try:
        rig = Rig(options=options, questions=asked, meter=meter)
        for rerank in counts:
            whole = {"recall": _recall(subject, options, asked, rerank, say)}
            whole |= _cold(opened.folder, gallery, options, asked[0], rerank, say)
            for batch in options.batches or (SCENARIOS[options.scenario].batch,):
                say(f"{options.scenario}, batch {batch}, re-ranking {rerank}")
                figures = measure(rig, subject.ask(rerank), batch)
                results.append({"batch": batch, "rerank": rerank, **figures, **whole})
    finally:
        subject.close()
    if meter is not None and any(result["energy_j_per_query"] is None for result in results):
        unmeasured["energy_j_per_query"] = f"a reading of {meter.name} failed"
    size = _size(gallery)
    head = heading(options, asked_of)
    return {
        **head,
        "environment": {**head["environment"], **_environment(opened, meter)},
        "results": [{**result, "gallery": size} for result in results],
        "skipped": skipped,
        "unmeasured": unmeasured | _missing(gallery, options, asked),
        "noise": judged(before, spin(), load=load, governor=governors()),
    }


def heading(options: ProfileOptions, asked_of: str) -> dict[str, Any]:
    """Return what a report says of machine and question, known before anything is measured."""
    return {
        "environment": {**machine.environment(), "device": options.device},
        "scenario": options.scenario,
        "settings": {
            "k": options.k,
            "mode": options.mode,
            "reference": options.reference,
            "bound_ms": options.bound_ms if options.scenario == "server" else None,
            "threads": options.threads,
            "index": options.index,
            "queries": asked_of,
            "runs": options.runs,
            "warmup": options.warmup,
            "seed": options.seed,
        },
    }


def _counts(
    options: ProfileOptions, manifest: Manifest, gallery: Path | None
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return how many candidates to re-rank, run by run, and what is left out with the reason."""
    own = manifest.rerank
    asked = options.rerank or ((0, own.candidates) if own is not None else (0,))
    if gallery is None:
        reason = NO_GALLERY
    elif own is None:
        reason = "the bundle has no re-ranker. Build one:  cir-rt build-engine CKPT --reranker CKPT"
    else:
        return list(asked), []
    skipped = [{"rerank": count, "reason": reason} for count in asked if count]
    return [count for count in asked if not count], skipped


def _questions(
    bundle: Bundle, gallery: Path | None, options: ProfileOptions, questions: Sequence[Question]
) -> list[Question]:
    """Return what is asked, in an order drawn by the seed."""
    rng = np.random.default_rng(options.seed)
    if questions:
        kept = readable(questions, bundle)
        return [kept[i] for i in rng.permutation(len(kept))]
    if gallery is None:
        if options.reference == "id":
            raise UsageError("reference 'id' without a gallery. Name the gallery, or use picture.")
        return readable(made_up(rng), bundle)
    with Gallery.open(gallery) as opened:
        return readable(drawn(opened, rng, reference=options.reference), bundle)


def _opened(bundle: Bundle, gallery: Path | None, options: ProfileOptions) -> Subject:
    device, threads = options.device, options.threads
    if gallery is None:
        return Encoders(Encoder.open(bundle, device=device, threads=threads))
    retriever = Retriever.open(
        bundle.folder, gallery, device=device, threads=threads, index=options.index
    )
    return WholeQuery(retriever, k=options.k, mode=options.mode)


def _meter(device: str) -> tuple[Meter | None, dict[str, str]]:
    gpu = {"gpu_event_ms": "engines tell the time that the caller waits, no GPU's events"}
    try:
        return find_meter(device), gpu
    except BackendMissing as error:
        return None, {"energy_j_per_query": str(error), **gpu}


def _recall(
    subject: Subject,
    options: ProfileOptions,
    questions: Sequence[Question],
    rerank: int,
    say: Callable[[str], None],
) -> dict[str, float] | None:
    """Return the recall of as many questions as are timed at most, each once."""
    if any(question.targets for question in questions):
        say(f"recall, re-ranking {rerank}")
    return subject.recall(questions[: options.runs], rerank)


def _cold(
    bundle: Path,
    gallery: Path | None,
    options: ProfileOptions,
    question: Question,
    rerank: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    if gallery is None or not options.processes:
        return {"cold_start_ms": None, "cold_start": None}
    say(f"{options.processes} fresh processes, re-ranking {rerank}")
    opening = {
        "bundle": str(bundle),
        "gallery": str(gallery),
        "device": options.device,
        "threads": options.threads,
        "index": options.index,
    }
    search = {"k": options.k, **reranking(rerank, options.mode)}
    starts = cold_starts(opening, question, search, processes=options.processes, runs=STEADY)
    parts = medians(starts)
    return {"cold_start_ms": parts["first_answer_ms"], "cold_start": parts}


def _size(gallery: Path | None) -> int | None:
    if gallery is None:
        return None
    with Gallery.open(gallery) as opened:
        return len(opened)


def _environment(bundle: Bundle, meter: Meter | None) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "backend": manifest.target.backend,
        "precisions": manifest.precisions,
        "model": manifest.fingerprints.vectors[:12],
        "energy_of": meter.name if meter is not None else None,
    }


def _missing(
    gallery: Path | None, options: ProfileOptions, questions: Sequence[Question]
) -> dict[str, str]:
    """Say of each figure that no result has, why that is."""
    missing = {}
    if gallery is None or not options.processes:
        reason = NO_GALLERY if gallery is None else "no fresh process was asked for (--processes)"
        missing["cold_start_ms"] = reason
    if not any(question.targets for question in questions):
        missing["recall"] = "no right answers are known. Name a dataset:  --queries DATA"
    elif gallery is None:
        missing["recall"] = NO_GALLERY
    return missing
