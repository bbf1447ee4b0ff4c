"""Bundles of TensorRT plans, from graphs to vectors, on a played GPU; no real one is used."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from fake_gpu import FakeGpu
from fake_trt import fake_trt, plan_facts

from cir_rt.bundle import open_bundle, write_manifest
from cir_rt.config import from_dict, to_dict
from cir_rt.encoder import Encoder
from cir_rt.engines.plan import Plan
from cir_rt.errors import BackendMissing, BundleError, EngineMismatch, UsageError
from cir_rt.export.build import BuildOptions, build_engine
from cir_rt.kernels import cuda

LOOSE = {"max_recall_drop": 100.0, "keep_slower": True, "threads": 1}


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGpu]:
    """A played GPU with TensorRT 11.4, and a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        played = FakeGpu(capability="sm_87", name="Orin")
        played.install(patch)
        patch.setitem(sys.modules, "tensorrt", fake_trt("11.4", played))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield played


@pytest.fixture(scope="module")
def compiled(gpu: FakeGpu, graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP16 bundle for the played GPU."""
    folder = tmp_path_factory.mktemp("bundles") / "orin.cir"
    report = build_engine(
        graphs, folder, BuildOptions(backend="tensorrt", precision="fp16", **LOOSE)
    )
    assert report.latency is not None  # the plan's own, since its GPU is at hand
    assert report.precisions == {"image": "fp16", "text": "fp16"}
    return folder


def test_the_manifest_says_what_was_built(compiled: Path) -> None:
    manifest = open_bundle(compiled).manifest
    assert manifest.target.backend == "tensorrt"
    assert manifest.target.device == "cuda"
    assert manifest.target.instruction_set == "sm_87"
    assert manifest.versions["tensorrt"].startswith("11.4")
    for role in ("image", "text"):
        found = manifest.roles[role]
        assert found.file == f"plans/{role}.plan"
        assert found.plan is not None
        assert found.plan.file == found.file
        assert found.plan.capabilities == ("sm_87",)
        assert found.plan.sha256 == manifest.files[found.file].sha256
        assert found.inputs == found.plan.inputs
        assert len(found.plan.profiles) == 2
        assert from_dict(Plan, to_dict(found.plan)) == found.plan


def test_its_vectors_are_those_of_the_fp32_bundle(
    compiled: Path, bundle: Path, garments: Path
) -> None:
    pictures = sorted((garments / "images").glob("*.jpg"))[:40]
    texts = ["the same but in red", "longer", "has dots instead of stripes"]
    exact = Encoder.open(open_bundle(bundle), threads=1)
    encoder = Encoder.open(open_bundle(compiled), device="cuda")
    assert encoder.device == "cuda"
    for a, b in (
        (exact.encode_pictures(pictures), encoder.encode_pictures(pictures)),
        (exact.encode_texts(texts), encoder.encode_texts(texts)),
    ):
        assert (a * b).sum(-1).min() > 0.999
    encoder.close()


@pytest.mark.parametrize("precision", ["fp32", "int8", "auto"])  # FP8: on real plans, below
def test_every_precision_builds(gpu: FakeGpu, graphs: Path, precision: str, tmp_path: Path) -> None:
    options = BuildOptions(backend="tensorrt", precision=precision, **LOOSE)
    report = build_engine(graphs, tmp_path / "b.cir", options)
    expected = {"fp32", "fp16", "int8"} if precision == "auto" else {precision}
    assert set(report.precisions.values()) <= expected
    encoder = Encoder.open(open_bundle(tmp_path / "b.cir"), device="cuda:0")
    assert np.isfinite(encoder.encode_texts(["longer"])).all()
    encoder.close()


def altered(source: Path, target: Path, **changes: object) -> Path:
    """Copy a bundle with other facts of the image engine's plan, and a manifest that fits."""
    shutil.copytree(source, target)
    manifest = open_bundle(source).manifest
    role = manifest.roles["image"]
    assert role.plan is not None
    image = replace(role, plan=replace(role.plan, **changes))
    write_manifest(replace(manifest, roles={**manifest.roles, "image": image}), target)
    return target


def test_an_outdated_plan_is_refused(compiled: Path, tmp_path: Path) -> None:
    bundle = open_bundle(altered(compiled, tmp_path / "b.cir", version="10.3.0"))
    with pytest.raises(EngineMismatch, match=r"with TensorRT 10\.3\.0; this machine is sm_87 with"):
        Encoder.open(bundle, device="cuda")


def test_a_foreign_plan_is_refused(compiled: Path, tmp_path: Path) -> None:
    bundle = open_bundle(altered(compiled, tmp_path / "b.cir", capabilities=("sm_110",)))
    with pytest.raises(EngineMismatch, match="plan built for sm_110"):
        Encoder.open(bundle, device="cuda")


def test_a_corrupted_plan_is_refused(compiled: Path, tmp_path: Path) -> None:
    shutil.copytree(compiled, tmp_path / "b.cir")
    path = tmp_path / "b.cir/plans/image.plan"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    bundle = open_bundle(tmp_path / "b.cir")
    path.write_bytes(content)  # after the bundle was opened: the engine looks for itself
    with pytest.raises(BundleError, match=r"image\.plan: altered"):
        Encoder.open(bundle, device="cuda")
    with pytest.raises(BundleError, match=r"image\.plan: altered"):
        open_bundle(tmp_path / "b.cir")


def test_without_a_gpu_the_bundle_says_so(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise OSError("libcuda.so.1")

    monkeypatch.setattr(cuda, "_driver", no_driver)
    with pytest.raises(BackendMissing, match="no NVIDIA driver"):
        Encoder.open(open_bundle(compiled), device="cuda")
    with pytest.raises(EngineMismatch, match="built for cuda, asked to run on cpu"):
        Encoder.open(open_bundle(compiled), device="cpu")


def test_compatible_plans_are_built_and_recorded(
    gpu: FakeGpu, graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "capability", "sm_89")
    asked = ("--backend", "tensorrt", "--precision", "fp32", "--threads", "1", "--keep-slower")
    wide = ("--version-compatible", "--hardware", "ampere_plus")
    files = set()
    for more, hardware in (((), "none"), (wide, "ampere_plus")):
        out = tmp_path / f"{hardware}.cir"
        told = run("build-engine", graphs, "--out", out, *asked, *more)
        assert told.exit_code == 0, told.output
        plan = open_bundle(out).manifest.roles["image"].plan
        assert plan is not None
        assert (plan.hardware, plan.version_compatible) == (hardware, bool(more))
        files.add(plan.sha256)
        flags = plan_facts(out / plan.file)["flags"]
        assert ("VERSION_COMPATIBLE" in flags) == bool(more)
    assert len(files) == 2
    monkeypatch.setattr(gpu, "capability", "sm_120")
    engine = Encoder.open(open_bundle(tmp_path / "ampere_plus.cir"), device="cuda")
    engine.close()
    with pytest.raises(EngineMismatch, match=r"built for sm_89 .*this machine is sm_120"):
        Encoder.open(open_bundle(tmp_path / "none.cir"), device="cuda")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version_compatible": True}, "'onnxruntime' makes no plans.*--backend tensorrt"),
        ({"hardware": "ampere_plus"}, "'onnxruntime' makes no plans"),
        ({"backend": "tensorrt-rtx", "hardware": "ampere_plus"}, "every GPU that --arch names"),
        ({"backend": "tensorrt-rtx", "version_compatible": True}, "no lean runtime"),
        (
            {"backend": "tensorrt", "hardware": "ampere_plus", "precision": "fp8"},
            r"FP8 needs sm_89.*--precision fp16",
        ),
        ({"backend": "tensorrt", "hardware": "all"}, "'all' is not known.*ampere_plus"),
    ],
)
def test_what_is_not_compatible_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BuildOptions(**options)


def test_another_gpu_cannot_be_built_for(gpu: FakeGpu, graphs: Path, tmp_path: Path) -> None:
    options = BuildOptions(backend="tensorrt", arch=("sm_110",), **LOOSE)
    with pytest.raises(BackendMissing, match=r"sm_87 \(Orin\).*sm_110 \(Jetson Thor\)"):
        build_engine(graphs, tmp_path / "b.cir", options)


def test_a_cpu_has_no_arch() -> None:
    with pytest.raises(UsageError, match=r"makes no plans\. Leave --arch, "):
        BuildOptions(arch=("sm_89",))


@pytest.mark.rtx
@pytest.mark.parametrize(("precision", "built"), [("auto", "fp16"), ("fp8", "fp8")])
def test_rtx_builds_a_bundle_without_a_gpu(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, built: str
) -> None:
    """A real build by the real package; recall is measured on ONNX Runtime, latency is not."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed: pip install 'cir-rt[rtx]'")

    def no_driver() -> None:
        raise OSError("libcuda.so.1")

    monkeypatch.setattr(cuda, "_driver", no_driver)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arch = ("sm_89", "sm_120")
    options = BuildOptions(backend="tensorrt-rtx", precision=precision, arch=arch, **LOOSE)
    report = build_engine(graphs, tmp_path / "rtx.cir", options)
    assert report.latency is None
    assert report.to_json()["latency_ms"] == {"before": None, "after": None}
    assert report.precisions == {"image": built, "text": built}
    manifest = open_bundle(tmp_path / "rtx.cir").manifest
    assert manifest.target.instruction_set == "sm_89,sm_120"
    plan = manifest.roles["text"].plan
    assert plan is not None
    assert plan.layers["HALF"] > 0
