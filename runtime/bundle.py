"""The bundle: engines for one target, and the manifest that vouches for every file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cir_rt.config import from_dict, to_dict
from cir_rt.engines.plan import Plan
from cir_rt.engines.protocol import TensorSpec
from cir_rt.errors import BundleError, ConfigError, EngineMismatch, StorageFull
from cir_rt.machine import EXACT_INT8, instruction_set, is_arm_set
from cir_rt.preprocess import Preprocess

FORMAT = 1
MANIFEST = "manifest.json"
REBUILD = "Rebuild it here:  cir-rt build-engine MODEL --out BUNDLE"


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """How a role's text becomes token ids."""

    tokenizer: str  # file in the bundle
    context: int
    pad_id: int


@dataclass(frozen=True, kw_only=True)
class Role:
    """One part of the query's way: an engine, or the small weights of a composition."""

    system: str
    file: str
    precision: str = "fp32"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    preprocess: Preprocess | None = None
    text: TextInput | None = None
    temperature: float = 1.0
    plan: Plan | None = None  # of an engine that TensorRT compiled


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the engines were built for."""

    backend: str
    device: str
    instruction_set: str


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """Hashes of weights and preprocessing: a gallery belongs to a model, not to one bundle."""

    vectors: str
    tokens: str | None = None  # of the re-ranker's image tower, where there is one


@dataclass(frozen=True, kw_only=True)
class RerankSettings:
    """How a bundle's re-ranker is asked, and what a gallery stores for it.

    `margin` is the cascade's: candidates whose early score comes within it of the query's best
    early score go the full depth, and `least` of them in any case. None without a cascade.
    `prune_weight` times a candidate's inner product is added to every score, early or whole.
    """

    candidates: int = 50  # put in a new order unless said
    buckets: tuple[int, ...] = (8, 16, 32, 50, 100)  # candidates in one run of the engine
    margin: float | None = None
    least: int = 10
    prune_weight: float = 0.0
    places: int  # tokens of a picture
    width: int  # of a token
    token_precision: str = "int8"  # of a gallery's tokens

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.least < 1 or min(self.places, self.width) < 1:
            raise ValueError("candidates, least, places and width are at least 1")
        if not self.buckets or min(self.buckets) < 1 or list(self.buckets) != sorted(self.buckets):
            raise ValueError(f"buckets must rise from 1 or more, got {self.buckets}")


@dataclass(frozen=True, kw_only=True)
class FileFact:
    """A file's checksum and size."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a bundle says of itself."""

    format: int = FORMAT
    target: Target
    dim: int
    fingerprints: Fingerprints
    roles: Mapping[str, Role]
    versions: Mapping[str, str]
    quality: Mapping[str, Any]  # recall and cosine before and after, latency
    rerank: RerankSettings | None = None
    files: Mapping[str, FileFact] = field(default_factory=dict)
    sha256: str = ""  # of all the above, as `_digest` writes it

    @property
    def precisions(self) -> dict[str, str]:
        """Return each engine's precision by role."""
        return {name: role.precision for name, role in self.roles.items() if role.inputs}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle; every file has been held against its checksum."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Return a file of the bundle."""
        return self.folder / name

    def role(self, name: str) -> Role:
        """Return a role. Raises BundleError naming those that the bundle has."""
        roles = self.manifest.roles
        if name not in roles:
            raise BundleError(f"{self.folder} has no '{name}'. It has: {', '.join(roles)}.")
        return roles[name]


def is_bundle(folder: Path) -> bool:
    """Tell whether the folder looks like a bundle."""
    return (folder / MANIFEST).exists()


def open_bundle(folder: str | Path) -> Bundle:
    """Open and verify a bundle.

    Raises BundleError for a missing or altered file or another format version, EngineMismatch
    where this machine cannot run it rightly.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for fault in faults(folder, manifest):
        raise BundleError(f"{fault} {REBUILD}")
    _check_target(folder, manifest)
    return Bundle(folder=folder, manifest=manifest)


def read_manifest(folder: Path) -> Manifest:
    """Parse manifest.json without touching the other files. Raises BundleError."""
    path = folder / MANIFEST
    if not path.exists():
        raise BundleError(
            f"{folder}: not a bundle, {MANIFEST} is missing. "
            "Expected the folder that `cir-rt build-engine … --out` wrote."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not readable ({error!r}). {REBUILD}") from error
    if version != FORMAT:
        raise BundleError(
            f"{folder}: bundle of format {version}; this cir-rt reads format {FORMAT}. {REBUILD}"
        )
    try:
        return from_dict(Manifest, values, MANIFEST)
    except ConfigError as error:
        raise BundleError(f"{path}: {error} {REBUILD}") from error


def faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong: an altered manifest, a file that is missing or not what it says."""
    stored = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if manifest.sha256 != _digest(stored):  # as it stands: an older one has fewer fields
        yield f"{folder / MANIFEST}: altered, its sha256 is not its own."
    for name, fact in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing."
        elif path.stat().st_size != fact.size_bytes:
            yield f"{path}: {path.stat().st_size} bytes, expected {fact.size_bytes}."
        elif sha256(path) != fact.sha256:
            yield f"{path}: altered, its sha256 is not the manifest's."


def _digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own checksum."""
    rest = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_target(folder: Path, manifest: Manifest) -> None:
    """Raise EngineMismatch where INT8 engines for CPUs are in a form that is wrong for this one."""
    built, here = manifest.target.instruction_set, instruction_set()
    if manifest.target.device != "cpu" or "int8" not in manifest.precisions.values():
        return
    if is_arm_set(built) != is_arm_set(here):
        trouble = "where that form is slower than FP32"
    elif built in EXACT_INT8 and here not in EXACT_INT8:
        trouble = "without the dot products that they need, so that they saturate or crawl"
    else:
        return
    raise EngineMismatch(
        f"{folder}: INT8 engines built for {built}; this machine has {here}, {trouble}. {REBUILD}"
    )


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_replaceable(folder: Path) -> None:
    """Raise BundleError where the folder holds something else than a bundle."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        ours = {"format", "fingerprints", "roles"} <= set(values)
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise BundleError(f"{folder}: exists and is not a bundle. Choose another --out.")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder` that takes its place when the block ends well.

    Raises StorageFull where the disk is; a bundle that stood there before stays until then.
    """
    folder = Path(folder)
    check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
        ) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            yield new
            for path in (*new.rglob("*"), new):
                _sync(path)
            _replace(folder, new, old)
            _sync(folder.parent)  # only then is the old one let go
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{folder.parent}: the disk is full; nothing was changed.") from error
        raise


def _sync(path: Path) -> None:
    """Put a file or a folder's names on the disk, so that a power cut finds them there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Put `new` in the folder's place; where that fails, what stood there comes back."""
    stood = folder.exists()
    if stood:
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if stood:
            os.rename(old, folder)
        raise


def write_manifest(manifest: Manifest, folder: Path) -> Manifest:
    """Write manifest.json with the facts of every file below the folder; return it complete."""
    files = {
        path.relative_to(folder).as_posix(): FileFact(
            sha256=sha256(path), size_bytes=path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    values = {**to_dict(manifest), "files": {k: to_dict(v) for k, v in files.items()}}
    values["sha256"] = _digest(values)
    (folder / MANIFEST).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return from_dict(Manifest, values, MANIFEST)
