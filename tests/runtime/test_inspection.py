"""What `inspect` says of a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cir_rt.bundle import read_manifest, write_manifest
from cir_rt.cli import cli
from cir_rt.engines.plan import Plan
from cir_rt.errors import BundleError, CheckpointError, DataError, GalleryError, UsageError
from cir_rt.inspection import inspect


@pytest.fixture
def copy(tmp_path: Path, graphs: Path) -> Path:
    return shutil.copytree(graphs, tmp_path / "graphs")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)


def test_a_bundle(bundle: Path) -> None:
    facts = inspect(bundle, verify=True)
    manifest = read_manifest(bundle)
    assert facts["kind"] == "bundle"
    assert facts["dim"] == 32
    assert facts["fingerprint"] == manifest.fingerprints.vectors
    assert facts["precisions"] == {"image": "fp32", "text": "fp32"}
    assert facts["target"].startswith("onnxruntime on cpu")
    stored = [p for p in bundle.rglob("*") if p.is_file() and p.name != "manifest.json"]
    assert facts["size_bytes"] == sum(p.stat().st_size for p in stored)
    assert facts["verified"] is True
    assert inspect(bundle)["verified"] is False
    json.dumps(facts)


def test_a_bundles_engines(bundle: Path) -> None:
    roles = inspect(bundle)["roles"]
    assert set(roles) == {"image", "text", "compose"}
    assert roles["image"]["layers"]["fp32"]["Conv"] == 1
    assert roles["text"]["layers"]["fp32"]["MatMul"] == 1
    assert "layers" not in roles["compose"]
    for role in roles.values():
        assert role["size_bytes"] == (bundle / role["file"]).stat().st_size
        assert (role["system"], role["precision"]) == ("progressive", "fp32")


def test_a_bundle_in_words(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy.cir")
    manifest = read_manifest(copy)
    gates = [{"what": "recall", "limit": 0.5, "measured": 0.25, "passed": True}]
    write_manifest(replace(manifest, quality={"gates": gates, "threads": 1}), copy)
    done = CliRunner().invoke(cli, ["inspect", str(copy), "--verify"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    size = f"{(copy / 'onnx/image.onnx').stat().st_size / 1e6:.2f}"
    image = next(row for row in rows if row[:1] == ["image"])
    assert image[1:4] == ["fp32", size, "onnx/image.onnx"]
    assert ["recall", "0.50", "0.25", "True"] in rows
    assert ["threads", "1"] in rows


def test_a_plan_is_told_by_its_manifest(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy.cir")
    (copy / "image.plan").write_bytes(b"a plan")
    plan = Plan(
        file="image.plan",
        sha256="0" * 64,
        package="tensorrt",
        version="10.3.0",
        capabilities=("sm_87",),
        layers={"Half": 12},
    )
    manifest = read_manifest(copy)
    roles = {**manifest.roles, "image": replace(manifest.roles["image"], plan=plan)}
    write_manifest(replace(manifest, roles=roles), copy)
    role = inspect(copy, verify=True)["roles"]["image"]
    assert (role["file"], role["size_bytes"]) == ("image.plan", 6)
    assert role["plan"] == {
        "package": "tensorrt 10.3.0",
        "capabilities": ["sm_87"],
        "layers": {"Half": 12},
    }
    shown = CliRunner().invoke(cli, ["inspect", str(copy)]).stdout
    assert "tensorrt 10.3.0; sm_87; 12 Half" in shown


def test_a_gallery(gallery: Path, bundle: Path) -> None:
    facts = inspect(gallery, verify=True)
    assert facts["kind"] == "gallery"
    assert (facts["pictures"], facts["deleted_rows"], facts["dim"]) == (144, 0, 32)
    assert facts["fingerprint"] == inspect(bundle)["fingerprint"]
    assert facts["size_bytes"] > 144 * 32 * 4
    json.dumps(facts)


def test_a_checkpoint(graphs: Path) -> None:
    facts = inspect(graphs)
    assert (facts["kind"], facts["system"]) == ("checkpoint", "progressive")
    assert facts["graphs"] == ["image.onnx", "text.onnx"]
    gate = 32 * 64 + 32 + 2 * 32 + 2
    assert facts["parameters"]["compose"] == gate
    assert facts["parameters"]["image"] == 16 * 3 * 8 * 8 + 16 * 4 * 4 * 32
    json.dumps(facts)


@pytest.mark.parametrize("name", ["onnx/image.onnx", "compose.safetensors", "tokenizer.json"])
def test_a_flipped_byte_in_a_bundle(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy.cir")
    flip(copy / name, -9)
    inspect(copy)
    with pytest.raises(BundleError, match=f"{name}.*altered"):
        inspect(copy, verify=True)


def test_a_flipped_byte_in_a_gallery(gallery: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(gallery, tmp_path / "copy.gallery")
    flip(copy / "vectors" / "000000.f32", 1000)
    inspect(copy)
    with pytest.raises(GalleryError, match=r"000000\.f32: row 7 differs"):
        inspect(copy, verify=True)


def test_a_gallery_is_repaired(gallery: Path, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(gallery, tmp_path / "copy.gallery")
    flip(copy / "vectors" / "000000.f32", 1000)
    facts = inspect(copy, verify=True, repair=True)
    assert (facts["pictures"], facts["repair"]["kept"], facts["verified"]) == (143, 143, True)
    assert len(facts["repair"]["lost"]) == 1
    assert Path(facts["repair"]["damaged"]).is_dir()
    json.dumps(facts)
    assert inspect(copy, repair=True)["repair"]["damaged"] is None
    with pytest.raises(UsageError, match="Only a gallery can be repaired"):
        inspect(bundle, repair=True)


def test_a_flipped_byte_in_a_checkpoint(copy: Path) -> None:
    flip(copy / "model.safetensors", -9)
    with pytest.raises(CheckpointError):
        inspect(copy, verify=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"not json"),
        ("model.safetensors", b"short"),
        pytest.param(
            "config.json",
            b"[]",
        ),
    ],
)
def test_a_damaged_checkpoint(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        inspect(copy)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="neither a bundle, a gallery nor a checkpoint"):
            inspect(folder)
