"""What a folder holds: a bundle, a gallery or a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cir_rt.bundle import Role, faults, is_bundle, read_manifest, sha256
from cir_rt.config import to_dict
from cir_rt.engines.onnx_layers import layers
from cir_rt.errors import BundleError, CheckpointError, DataError, GalleryError, UsageError
from cir_rt.gallery import Gallery
from cir_rt.gallery.repair import repair as repaired


def inspect(path: Path, *, verify: bool = False, repair: bool = False) -> dict[str, Any]:
    """Return the facts of a bundle, gallery or checkpoint.

    `verify` checks every byte; `repair` keeps what is whole in a gallery before it is looked at.
    Raises BundleError or GalleryError with the first fault, DataError for a folder of none of the
    three kinds, UsageError where anything but a gallery is to be repaired.
    """
    if repair and not (path / "gallery.sqlite").exists():
        raise UsageError(f"{path}: no gallery. Only a gallery can be repaired; build it again.")
    if is_bundle(path):
        return _bundle(path, verify)
    if (path / "gallery.sqlite").exists():
        return _gallery(path, verify, repair)
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
        "rerank": to_dict(manifest.rerank) if manifest.rerank else None,
        "precisions": manifest.precisions,
        "roles": {name: _role(path, role) for name, role in manifest.roles.items()},
        "size_bytes": sum(fact.size_bytes for fact in manifest.files.values()),
        "files": {name: fact.size_bytes for name, fact in manifest.files.items()},
        "quality": dict(manifest.quality),
        "versions": dict(manifest.versions),
        "verified": verify,
    }


def _role(bundle: Path, role: Role) -> dict[str, Any]:
    """Return an engine's layers by precision, or a composition's system alone."""
    file = bundle / (role.plan.file if role.plan else role.file)
    facts: dict[str, Any] = {
        "system": role.system,
        "precision": role.precision,
        "file": file.relative_to(bundle).as_posix(),
        "size_bytes": file.stat().st_size if file.exists() else None,
    }
    if role.plan:
        facts["plan"] = {
            "package": f"{role.plan.package} {role.plan.version}",
            "capabilities": list(role.plan.capabilities),
            "layers": dict(role.plan.layers),
        }
    elif file.suffix == ".onnx" and file.exists():
        facts["layers"] = layers(file)
    return facts


def _gallery(path: Path, verify: bool, repair: bool) -> dict[str, Any]:
    report = repaired(path) if repair else None
    with Gallery.open(path) as gallery:
        if verify:
            for fault in gallery.verify():
                raise GalleryError(fault)
        tokens = gallery.token_format
        facts = {
            "kind": "gallery",
            "pictures": len(gallery),
            "deleted_rows": len(gallery.live) - len(gallery),
            "dim": gallery.dim,
            "precision": gallery.precision,
            "tokens": f"{tokens.count} x {tokens.width} {tokens.precision}" if tokens else None,
            "fingerprint": gallery.fingerprint,
            "generation": gallery.generation,
            "size_bytes": gallery.size_bytes,
            "quota_bytes": gallery.quota_bytes,
            "verified": verify,
        }
    if report is not None:
        facts["repair"] = {
            "kept": report.kept,
            "lost": list(report.lost),
            "unnamed_rows": report.unnamed,
            "without_tokens": list(report.without_tokens),
            "damaged": str(report.damaged) if report.damaged else None,
        }
    return facts


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
    second = path / "reranker"  # graphs carry theirs
    return {
        "kind": "checkpoint",
        "system": config.get("system", config.get("model_type", "unknown")),
        "parameters": parameters,
        "graphs": sorted(p.name for p in path.glob("*.onnx")),
        "config": config,
        "reranker": _checkpoint(second, verify) if second.is_dir() else None,
        "verified": verify,
    }


def _product(shape: list[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
