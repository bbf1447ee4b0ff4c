"""What `inspect` says of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cir_rt.bundle import read_manifest
from cir_rt.errors import BundleError, CheckpointError, DataError, GalleryError
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
    with pytest.raises(GalleryError, match=r"000000\.f32: rows 0 to 63 differ"):
        inspect(copy, verify=True)


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
