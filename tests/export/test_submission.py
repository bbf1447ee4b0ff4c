"""The files for CIRR's server, against sorting, and by the form that it publishes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.cirr import PROTOCOL
from cir_rt.export.data.dataset import Query, Split
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.evaluate import products
from cir_rt.export.submission import write_submission


def made(rng: np.random.Generator) -> Split:
    ids = [f"p{k}" for k in range(61)]
    queries = []
    for k in range(19):
        members = [ids[i] for i in rng.permutation(61)[:6]]
        queries.append(
            Query(
                reference=members[0],
                captions=("x",),
                targets=(),
                group="all",
                subset=tuple(members[1:]),
                key=str(100 + k),
            )
        )
    return Split(
        name="test1", protocol=PROTOCOL, queries=tuple(queries), galleries={"all": tuple(ids)}
    )


def test_the_files_hold_what_sorting_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    split = made(rng)
    queries = rng.integers(-4, 5, (19, 3)).astype(np.float32)  # with ties
    pictures = rng.integers(-4, 5, (61, 3)).astype(np.float32)
    paths = write_submission(products(queries, pictures, split), split, tmp_path / "new/deep")
    assert [path.name for path in paths] == ["recall.json", "recall_subset.json"]
    whole, subset = (json.loads(path.read_text()) for path in paths)
    assert (whole.pop("version"), whole.pop("metric")) == ("rc2", "recall")
    assert (subset.pop("version"), subset.pop("metric")) == ("rc2", "recall_subset")
    assert list(whole) == list(subset) == [q.key for q in split.queries]
    gallery = split.galleries["all"]
    for vector, query in zip(queries, split.queries, strict=True):
        order = sorted(range(61), key=lambda k: (-float(vector @ pictures[k]), k))
        ranked = [gallery[k] for k in order if gallery[k] != query.reference]
        assert whole[query.key] == ranked[:50]
        assert subset[query.key] == [i for i in ranked if i in query.subset][:3]


def test_queries_that_no_server_knows_are_refused(tmp_path: Path) -> None:
    query = Query(reference="a", captions=("x",), targets=(), group="all")
    split = Split(name="val", protocol=PROTOCOL, queries=(query,), galleries={"all": ("a", "b")})
    with pytest.raises(DataError, match="no server scores its queries"):
        write_submission([], split, tmp_path)


def test_the_real_test_split_fits_the_servers_limit(real_data: Path, tmp_path: Path) -> None:
    split = open_dataset(real_data / "annotations/cirr").split("test1")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(split.queries), 4)).astype(np.float32)
    pictures = rng.standard_normal((len(split.pictures), 4)).astype(np.float32)
    for path in write_submission(products(vectors, pictures, split), split, tmp_path):
        content = json.loads(path.read_text())
        assert len(content) == 2 + 4148
        assert path.stat().st_size < 5_000_000
        k = 50 if path.stem == "recall" else 3
        assert {len(v) for key, v in content.items() if key.isdigit()} == {k}
