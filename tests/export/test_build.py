"""Build bundles from graphs, without torch and at every precision."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from builds import LOOSE, options

from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.errors import BackendMissing, BundleError, CirRtError, DataError, UsageError
from cir_rt.export.build import BuildOptions, BuildReport, build_engine
from cir_rt.export.build.calibration_set import calibration_set
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.evaluate import evaluate
from cir_rt.export.models.encoder import open_encoder


def test_a_bundle_needs_no_torch(graphs: Path, tmp_path: Path) -> None:
    code = """
import json, sys
sys.modules.update(torch=None, transformers=None, onnxscript=None)
from pathlib import Path
from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.export.build import BuildOptions, build_engine
graphs, out = map(Path, sys.argv[1:])
report = build_engine(graphs, out, BuildOptions(threads=1, max_recall_drop=100))
vectors = Encoder.open(open_bundle(out), threads=1).encode_texts(["is red", "has long sleeves"])
print(json.dumps([report.to_json(), vectors.tolist()]))
"""
    command = [sys.executable, "-c", code, str(graphs), str(tmp_path / "made.cir")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report, vectors = json.loads(done.stdout)
    assert report["bundle"] == str(tmp_path / "made.cir")
    wanted = open_encoder(open_checkpoint(graphs)).encode_texts(["is red", "has long sleeves"])
    assert (np.asarray(vectors) * wanted).sum(1).min() > 0.98


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_checkpoint_is_exported_on_the_way(
    checkpoint: Checkpoint, tmp_path: Path, precision: str
) -> None:
    """Its graphs are then in full precision, unlike those of the other tests."""
    settings = {"max_recall_drop": LOOSE, "keep_slower": True}
    build_engine(checkpoint.folder, tmp_path / "made.cir", options(precision, **settings))
    texts = ["is red", "has long sleeves"]
    got = Encoder.open(open_bundle(tmp_path / "made.cir")).encode_texts(texts)
    limit = 1e-5 if precision == "fp32" else 0.1
    assert np.abs(got - open_encoder(checkpoint).encode_texts(texts)).max() < limit
    assert {path.name for path in checkpoint.folder.iterdir()} == {
        "README.md",
        "calibration",
        "config.json",
        "model.safetensors",
        "scalars",
        "tokenizer.json",
    }


def test_a_checkpoint_without_graphs_says_what_it_needs(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    code = """
import sys
sys.modules.update(torch=None)
from pathlib import Path
from cir_rt.errors import BackendMissing
from cir_rt.export.build import BuildOptions, build_engine
try:
    build_engine(Path(sys.argv[1]), Path(sys.argv[2]), BuildOptions())
except BackendMissing as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(checkpoint.folder), str(tmp_path / "made.cir")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'cir-rt[export]'" in done.stdout
    assert not list(tmp_path.iterdir())


def test_fp32_is_the_model_itself(
    built: dict[str, tuple[Path, BuildReport]], graphs: Path, drawn: Dataset
) -> None:
    bundle, report = built["fp32"]
    encoder, wanted = Encoder.open(open_bundle(bundle)), open_encoder(open_checkpoint(graphs))
    paths = drawn.paths(drawn.split("val").pictures[:19])
    v, u = encoder.encode_pictures(paths), encoder.encode_texts(["is red", "longer"] * 9 + ["x"])
    assert np.abs(v - wanted.encode_pictures(paths)).max() < 1e-5
    assert np.abs(u - wanted.encode_texts(["is red", "longer"] * 9 + ["x"])).max() < 1e-5
    for ours, theirs in zip(encoder.compose(v, u), wanted.compose(v, u), strict=True):
        assert np.abs(ours - theirs).max() < 1e-5
    assert report.precisions == {"image": "fp32", "text": "fp32"}
    assert report.cosine_min == pytest.approx(1, abs=1e-5)
    assert report.recall_before == report.recall_after == report.recall_mixed


def test_int8_stays_close(
    built: dict[str, tuple[Path, BuildReport]], graphs: Path, drawn: Dataset
) -> None:
    bundle, report = built["int8"]
    assert report.precisions == {"image": "int8", "text": "int8"}
    assert 0.98 <= report.cosine_min < 1
    for role in ("image", "text"):
        nodes = onnx.load(bundle / f"onnx/{role}.onnx").graph.node
        assert any(node.op_type == "DequantizeLinear" for node in nodes)
    encoder, wanted = Encoder.open(open_bundle(bundle)), open_encoder(open_checkpoint(graphs))
    paths = drawn.paths(drawn.split("val").pictures[:19])  # never seen in calibration
    agreement = (encoder.encode_pictures(paths) * wanted.encode_pictures(paths)).sum(1)
    assert 0.98 <= agreement.min() < 1


def test_recall_before_is_that_of_the_queries_held_back(
    built: dict[str, tuple[Path, BuildReport]], graphs: Path
) -> None:
    held = calibration_set(open_checkpoint(graphs), None)
    report = evaluate(open_encoder(open_checkpoint(graphs)), held.dataset, held.split)
    before = built["int8"][1].recall_before
    assert before == pytest.approx(report.recall, abs=2.0)  # one or two queries may tip over


def test_the_manifest_says_what_was_measured(
    built: dict[str, tuple[Path, BuildReport]], graphs: Path
) -> None:
    bundle, report = built["int8"]
    manifest = open_bundle(bundle).manifest
    quality = json.loads(json.dumps(manifest.quality))
    calibration = quality.pop("calibration")
    assert quality.pop("threads") == report.options.threads
    assert quality == json.loads(json.dumps(report.to_json()["quality"]))
    assert {"cosine_min", "recall_before", "recall_after", "recall_mixed"} <= set(quality)
    assert [gate["what"] for gate in quality["gates"]] == [
        "quantized engines",
        "quantized queries on an FP32 gallery",
        "image",
        "text",
        "one query, image and text",
    ]
    assert calibration["pictures"] > 100
    assert 50 < calibration["gate_queries"] < 200  # of 360
    assert calibration["labelled"]
    assert len(calibration["sha256"]) == 64
    assert manifest.precisions == {"image": "int8", "text": "int8"}
    assert manifest.roles["image"].recipe["operators"]
    assert manifest.roles["image"].preprocess == open_checkpoint(graphs).config.preprocess
    assert {"onnxruntime", "python", "numpy"} <= set(manifest.versions)
    assert report.size_bytes == sum(fact.size_bytes for fact in manifest.files.values())


def test_a_gallery_fits_either_precision(built: dict[str, tuple[Path, BuildReport]]) -> None:
    prints = {open_bundle(path).manifest.fingerprints.vectors for path, _ in built.values()}
    assert len(prints) == 1


def test_another_model_has_another_fingerprint(
    built: dict[str, tuple[Path, BuildReport]], twins: Path, tmp_path: Path
) -> None:
    build_engine(twins, tmp_path / "other", options("fp32"))
    other = open_bundle(tmp_path / "other").manifest.fingerprints.vectors
    assert other != open_bundle(built["fp32"][0]).manifest.fingerprints.vectors


def test_the_report_has_the_fields_of_the_contract(
    built: dict[str, tuple[Path, BuildReport]],
) -> None:
    values = json.loads(json.dumps(built["int8"][1].to_json()))
    contract = {"bundle", "backend", "device", "precision", "size_bytes", "seconds"}
    assert contract | {"quality", "latency_ms"} <= set(values)
    assert (values["backend"], values["device"], values["precision"]) == (
        "onnxruntime",
        "cpu",
        "int8",
    )
    assert {"cosine_min", "recall_before", "recall_after"} <= set(values["quality"])
    assert set(values["latency_ms"]) == {"before", "after"}
    assert min(values["latency_ms"].values()) > 0


def test_a_folder_that_is_no_bundle_is_refused_before_any_work(
    graphs: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    stages: list[str] = []
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        build_engine(graphs, tmp_path, options("fp32"), progress=stages.append)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert "candidates" not in stages


def test_no_calibration_inputs_are_an_error(graphs: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(graphs, tmp_path / "graphs")
    shutil.rmtree(bare / "calibration")
    with pytest.raises(DataError, match=r"no calibration inputs.*--calibration DIR"):
        build_engine(bare, tmp_path / "made.cir", options("int8"))
    assert not (tmp_path / "made.cir").exists()


def test_another_dataset_may_calibrate(graphs: Path, drawn: Dataset, tmp_path: Path) -> None:
    report = build_engine(graphs, tmp_path / "made.cir", options("fp32"), calibration=drawn.folder)
    assert set(report.recall_before) == {"R@1", "R@10", "R@50"}  # FashionIQ's own
    fact = open_bundle(tmp_path / "made.cir").manifest.quality["calibration"]
    assert fact["gate_queries"] == len(drawn.split("val").queries)


def test_calibration_without_captions_is_an_error(graphs: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(graphs, tmp_path / "graphs")
    (bare / "calibration/calibration.jsonl").write_text("")
    with pytest.raises(CirRtError):
        build_engine(bare, tmp_path / "made.cir", options("int8"))


def test_weights_that_moved_are_found_out(graphs: Path, tmp_path: Path) -> None:
    """The graphs point into model.safetensors by offset; another header moves every tensor."""
    from safetensors.numpy import load_file, save_file

    moved = shutil.copytree(graphs, tmp_path / "graphs")
    save_file(
        load_file(moved / "model.safetensors"),
        moved / "model.safetensors",
        metadata={"note": "saved again"},
    )
    with pytest.raises(CirRtError, match=r"model\.safetensors"):
        build_engine(moved, tmp_path / "made.cir", options("fp32"))


def test_stages_are_told(graphs: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    build_engine(graphs, tmp_path / "made.cir", options("fp32"), progress=stages.append)
    assert stages == ["graphs", "candidates", "gates", "bundle"]


def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(UsageError, match=r"precision 'int4' is not known\. Expected: fp32, int8"):
        BuildOptions(precision="int4")
    with pytest.raises(BackendMissing, match="backend 'tensorflow'"):
        BuildOptions(backend="tensorflow")
    with pytest.raises(BackendMissing, match="device 'tpu'"):
        BuildOptions(device="tpu")
