"""Builds for ONNX Runtime on CUDA, played by its CPU provider; no GPU is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_onnxruntime
import numpy as np
import onnx
import onnxruntime
import pytest
from builds import LOOSE, options, stub_race
from fake_onnxruntime import CPU, FakeSession

from cir_rt.bundle import open_bundle
from cir_rt.calibration.gate import Duel
from cir_rt.encoder import Encoder
from cir_rt.errors import BackendMissing, EngineMismatch, UsageError
from cir_rt.export.build import BuildOptions, build_engine
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.runtime_scorer import RuntimeScorer

TOWERS = ("image", "text")
SCORING = ("rerank_image", "rerank_query", "rerank")


class EitherSession(FakeSession):
    """A played session on CUDA, or a real one on the CPU, as is asked for."""

    def __new__(cls, path: str, sess_options: Any, *, providers: Any, **kwargs: Any) -> Any:
        if providers == [CPU]:
            return onnxruntime.InferenceSession(path, sess_options, providers=providers)
        return super().__new__(cls)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A played GPU, on which whatever is new takes half the time."""
    fake_onnxruntime.install(monkeypatch, EitherSession)
    stub_race(monkeypatch, 0.5)
    faster = Duel(before_ms=1.0, after_ms=0.5, spread=0.0)
    monkeypatch.setattr("cir_rt.export.build.reranker.race.duel", lambda *a, **named: faster)


@pytest.mark.parametrize(("precision", "built"), [("auto", "fp16"), ("fp16", "fp16")])
def test_fp16_is_made_and_gated_there(
    gpu: None, carrying: Path, drawn: Dataset, tmp_path: Path, precision: str, built: str
) -> None:
    settings = options(precision, device="cuda:1", max_recall_drop=LOOSE, min_cosine=0.99)
    report = build_engine(carrying, tmp_path / "made.cir", settings)
    assert {report.precisions[role] for role in (*TOWERS, *SCORING)} == {built}
    assert report.latency is not None
    assert {"image", "text", "one query, image and text"} <= {gate.what for gate in report.gates}
    bundle = open_bundle(tmp_path / "made.cir")
    target = bundle.manifest.target
    assert (target.backend, target.device) == ("onnxruntime", "cuda:1")
    for role in (*TOWERS, *SCORING):
        graph = onnx.load(bundle.path(bundle.role(role).file)).graph
        types = {tensor.data_type for tensor in graph.initializer}
        assert onnx.TensorProto.FLOAT16 in types, role
    encoder = Encoder.open(bundle, device="cuda")
    assert np.isfinite(encoder.encode_texts(["longer"])).all()
    split = drawn.split("val")
    scorer = RuntimeScorer.open(bundle, device="cuda")
    rows = scorer.read(drawn.paths(split.pictures[:7]))
    assert np.isfinite(scorer.score(rows[:1], ["longer"], rows[None])).all()
    with pytest.raises(EngineMismatch, match="built for cuda:1, asked to run on cpu"):
        Encoder.open(bundle)


def test_fp32_stays_where_it_is_asked_for(gpu: None, graphs: Path, tmp_path: Path) -> None:
    report = build_engine(graphs, tmp_path / "made.cir", options("fp32", device="cuda"))
    assert report.precisions == dict.fromkeys(TOWERS, "fp32")


def test_auto_keeps_fp32_where_fp16_is_slower(
    gpu: None, graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_race(monkeypatch, 1.2)
    settings = options("auto", device="cuda", max_recall_drop=LOOSE)
    report = build_engine(graphs, tmp_path / "made.cir", settings)
    assert report.precisions == dict.fromkeys(TOWERS, "fp32")


def test_without_cuda_it_says_what_to_type(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cir_rt.engines.onnxruntime.probe", lambda: 8)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(BackendMissing, match=r"built without CUDA.*pip install 'cir-rt\[gpu\]'"):
        build_engine(graphs, tmp_path / "made.cir", options("auto", device="cuda"))
    assert not list(tmp_path.iterdir())


def test_int8_is_no_precision_of_cuda() -> None:
    with pytest.raises(UsageError, match=r"'int8' is not known\. Expected: fp32, fp16, auto"):
        BuildOptions(device="cuda", precision="int8")
