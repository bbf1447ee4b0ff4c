"""What a folder holds: a bundle, a gallery or a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cir_rt.bundle import faults, is_bundle, read_manifest, sha256
from cir_rt.errors import BundleError, CheckpointError, DataError, GalleryError
from cir_rt.gallery import Gallery


def inspect(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """Return the facts of a bundle, gallery or checkpoint.

    `verify` checks every byte. Raises BundleError or GalleryError with the first fault, DataError
    for a folder of none of the three kinds.
    """
    if is_bundle(path):
        return _bundle(path, verify)
    if (path / "gallery.sqlite").exists():
        return _gallery(path, verify)
    if (path / "config.json").exists() and (path / "model.safetensors").exists():
        return _checkpoint(path, verify)
    raise DataError(f"{path}: neither a bundle, a gallery nor a checkpoint.")


def _bundle(path: Path, verify: bool) -> dict[str, Any]:
    manifest = read_manifest(path)
    if verify:
        for fault in faults(path, manifest):
            raise BundleError(fault)
    target = manifest.target
    return {
        "kind": "bundle",
        "target": f"{target.backend} on {target.device}, {target.instruction_set}",
        "dim": manifest.dim,
        "fingerprint": manifest.fingerprints.vectors,
        "precisions": manifest.precisions,
        "size_bytes": sum(fact.size_bytes for fact in manifest.files.values()),
        "files": {name: fact.size_bytes for name, fact in manifest.files.items()},
        "quality": dict(manifest.quality),
        "versions": dict(manifest.versions),
        "verified": verify,
    }


def _gallery(path: Path, verify: bool) -> dict[str, Any]:
    with Gallery.open(path) as gallery:
        if verify:
            for fault in gallery.verify():
                raise GalleryError(fault)
        return {
            "kind": "gallery",
            "pictures": len(gallery),
            "deleted_rows": len(gallery.live) - len(gallery),
            "dim": gallery.dim,
            "fingerprint": gallery.fingerprint,
            "generation": gallery.generation,
            "size_bytes": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
            "verified": verify,
        }


def _checkpoint(path: Path, verify: bool) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("config.json holds no table")
        parameters: dict[str, int] = {}
        with safe_open(path / "model.safetensors", framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                part = name.split(".")[0]
                shape = file.get_slice(name).get_shape()
                parameters[part] = parameters.get(part, 0) + _product(shape)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged ({error}).") from error
    if verify and not config.get("weights_sha256"):
        raise CheckpointError(f"{path}: carries no checksum to verify the weights against.")
    if verify and config["weights_sha256"] != sha256(path / "model.safetensors"):
        raise CheckpointError(f"{path}: altered, the weights' sha256 is not config.json's.")
    return {
        "kind": "checkpoint",
        "system": config.get("system", config.get("model_type", "unknown")),
        "parameters": parameters,
        "graphs": sorted(p.name for p in path.glob("*.onnx")),
        "config": config,
        "verified": verify,
    }


def _product(shape: list[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
