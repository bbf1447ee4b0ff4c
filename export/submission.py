"""The two files that CIRR's server scores, since the truth of its test split is not published.

Each file is one JSON object: "version": "rc2", "metric": "recall" or "recall_subset", and for every
pair's id its best pictures, 50 of the split's or 3 of its subset. The server takes 5 MB at most.
Source: github.com/Cuberick-Orion/CIRR, Test-split_server.md and demo_files/.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import Split
from cir_rt.export.evaluate import Columns, Scored
from cir_rt.metrics import best_rows

BEST = {"recall": 50, "recall_subset": 3}  # metric -> pictures a pair


def write_submission(scored: Iterable[Scored], split: Split, folder: Path) -> list[Path]:
    """Write {metric}.json for both metrics and return their paths.

    Raises DataError where the split's queries have no pair id or no subset.
    """
    check_submittable(split)
    answers: dict[str, dict[str, list[str]]] = {metric: {} for metric in BEST}
    for block in scored:
        columns, gallery = Columns.of(block, split), split.galleries[block.group]
        for metric, k in BEST.items():
            scores, among = block.scores, None
            if metric == "recall_subset":
                scores = block.scores if block.among is None else block.among
                among = columns.subset
            ranked = best_rows(scores, k, removed=columns.removed, among=among)
            for place, rows in zip(block.queries, ranked, strict=True):
                answers[metric][split.queries[place].key] = [gallery[row] for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for metric, pairs in answers.items():
        path = folder / f"{metric}.json"
        content = {"version": "rc2", "metric": metric, **pairs}
        path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        paths.append(path)
    return paths


def check_submittable(split: Split) -> None:
    """Raise DataError for queries that no server knows."""
    if not all(query.key and query.subset for query in split.queries):
        raise DataError(
            f"{split.name}: no server scores its queries. Expected a split of CIRR; leave "
            "--submission out."
        )
