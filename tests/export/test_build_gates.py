"""Damage engines, or slow them down, and see the gates close."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builds import LOOSE, options, stub_race
from onnx import numpy_helper
from spoiling import quantizer, turned, use

from cir_rt.bundle import open_bundle
from cir_rt.errors import CirRtError, GateError
from cir_rt.export.build import BuildReport, build_engine


def blinded(model: onnx.ModelProto) -> None:
    """Let nothing of the input through, so that all vectors are one."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(0 * values, tensor.name))


def broken(model: onnx.ModelProto) -> None:
    """Let the engine return no numbers."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array(np.nan * values, tensor.name))


def test_the_twins_are_found(twins: Path, tmp_path: Path) -> None:
    report = build_engine(twins, tmp_path / "made.cir", options("fp32"))
    assert report.recall_before["R@1"] > 90


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (blinded, r"quantized engines: recall fell by \d+\.\d\d points, the limit is 0\.5"),
        (turned, r"quantized queries on an FP32 gallery: recall fell"),
    ],
)
def test_a_loss_of_recall_fails_the_build(
    twins: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    use(monkeypatch, quantizer(change))
    with pytest.raises(GateError, match=message):
        build_engine(twins, tmp_path / "made.cir", options("int8", keep_slower=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [blinded, turned])
def test_auto_gives_back_what_loses_recall(
    twins: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[onnx.ModelProto], None],
) -> None:
    use(monkeypatch, quantizer(change))
    stub_race(monkeypatch, 0.5)
    report = build_engine(twins, tmp_path / "made.cir", options("auto"))
    assert report.precisions == {"image": "fp32", "text": "int8"}
    assert report.recall_after == report.recall_before
    assert any(n.startswith("image: back to fp32; quantized") for n in report.notes)


def test_an_engine_that_returns_no_numbers_is_never_taken(
    twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, quantizer(broken))
    stub_race(monkeypatch, 0.5)
    with pytest.raises(CirRtError, match="image"):
        build_engine(twins, tmp_path / "made.cir", options("int8", max_recall_drop=LOOSE))
    assert not list(tmp_path.iterdir())
    report = build_engine(twins, tmp_path / "made.cir", options("auto", max_recall_drop=LOOSE))
    assert report.precisions == {"image": "fp32", "text": "int8"}


def test_a_loss_within_the_limit_is_kept(
    twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, quantizer(blinded))
    settings = {"keep_slower": True, "max_recall_drop": 100.0}
    report = build_engine(twins, tmp_path / "made.cir", options("int8", **settings))
    assert report.recall_after["R@1"] < report.recall_before["R@1"] - 50
    assert report.precisions["image"] == "int8"


@pytest.mark.parametrize(("ratio", "precision"), [(0.5, "int8"), (2.0, "fp32")])
def test_auto_takes_the_fastest(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, precision: str
) -> None:
    stub_race(monkeypatch, ratio)
    chosen = options("auto", max_recall_drop=LOOSE)
    report = build_engine(graphs, tmp_path / "made.cir", chosen)
    assert report.precisions == {"image": precision, "text": precision}
    assert {point.role for point in report.frontier if point.chosen} == {"image", "text"}


def test_a_slower_precision_by_name_is_refused(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_race(monkeypatch, 1.2, spread=0.1)
    with pytest.raises(GateError, match=r"1\.20 ms, slower than the 1\.00 ms .*--keep-slower"):
        build_engine(graphs, tmp_path / "a", options("int8", max_recall_drop=LOOSE))
    assert not list(tmp_path.iterdir())
    kept = options("int8", max_recall_drop=LOOSE, keep_slower=True)
    assert build_engine(graphs, tmp_path / "b", kept).precisions["image"] == "int8"
    stub_race(monkeypatch, 1.14, spread=0.1)
    build_engine(graphs, tmp_path / "c", options("int8", max_recall_drop=LOOSE))
    stub_race(monkeypatch, 9.0)
    build_engine(graphs, tmp_path / "d", options("fp32"))


def test_a_failed_build_keeps_the_old_bundle(
    built: dict[str, tuple[Path, BuildReport]],
    twins: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = shutil.copytree(built["fp32"][0], tmp_path / "made.cir")
    before = digests(tmp_path)
    use(monkeypatch, quantizer(blinded))
    with pytest.raises(GateError):
        build_engine(twins, old, options("int8", keep_slower=True))
    assert digests(tmp_path) == before
    build_engine(twins, old, options("fp32"))
    assert digests(tmp_path) != before
    assert [path.name for path in tmp_path.iterdir()] == ["made.cir"]
    open_bundle(old)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
