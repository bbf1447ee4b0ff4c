"""A profile written by hand, for those that read one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

SUMMARY = {"p50_ms": 10.0, "p90_ms": 12.0, "p95_ms": 13.0, "p99_ms": 15.0, "mean_ms": 10.5}
RESULT: Mapping[str, Any] = {
    "batch": 1,
    "rerank": 0,
    "gallery": 2400,
    "runs": 200,
    "queries": 200,
    "stages": {
        "image": {**SUMMARY, "mean_ms": 6.0, "cv": 0.1},
        "prune": {**SUMMARY, "mean_ms": 4.4, "cv": 0.2},
    },
    "unaccounted": {**SUMMARY, "mean_ms": 0.1, "cv": 0.5, "share": 0.01},
    "total": {**SUMMARY, "cv": 0.15},
    "early_stopping": {"p90_ms": 13.0, "p99_ms": None},
    "qps": 95.0,
    "metric": {"name": "p90_ms", "value": 12.0},
    "noise": {"p50_ms": 0.01, "p90_ms": 0.02},
    "recall": {"R@1": 20.0, "R@10": 60.0, "R@50": 90.0},
    "peak_rss_mb": 90.0,
    "peak_rss_of": "run",
    "cold_start_ms": 300.0,
    "cold_start": {"import_ms": 100.0},
    "energy_j_per_query": None,
    "gpu_event_ms": None,
}
REPORT: Mapping[str, Any] = {
    "environment": {
        "machine": "x86_64",
        "system": "Linux",
        "cores": 2,
        "instruction_set": "avx512_vnni",
        "versions": {"python": "3.11.7"},
        "device": "cpu",
        "backend": "onnxruntime",
        "precisions": {"image": "int8", "text": "fp32"},
        "model": "0123456789ab",
        "energy_of": None,
    },
    "scenario": "single-stream",
    "settings": {
        "k": 10,
        "mode": "exact",
        "reference": "picture",
        "bound_ms": None,
        "threads": 2,
        "index": "auto",
        "queries": "made up",
        "runs": 200,
        "warmup": 20,
        "seed": 0,
    },
    "results": [RESULT],
    "skipped": [{"rerank": 50, "reason": "the bundle has no re-ranker."}],
    "unmeasured": {"energy_j_per_query": "no rails."},
    "noise": {
        "spin_ms": 0.5,
        "spin_cv": 0.02,
        "spin_drift": 0.0,
        "load_average": 0.1,
        "governors": [],
        "warnings": [],
    },
}


def report(*results: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a profile with these results, each a few changes of the one above."""
    made: dict[str, Any] = copy.deepcopy(dict(REPORT))
    made["results"] = [merged(RESULT, changed) for changed in results or ({},)]
    return merged(made, changes)


def merged(whole: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `whole` with some of its values changed, inner ones too."""
    made = copy.deepcopy(dict(whole))
    for name, value in changes.items():
        inner = isinstance(value, dict) and isinstance(made.get(name), dict)
        made[name] = merged(made[name], value) if inner else value
    return made
