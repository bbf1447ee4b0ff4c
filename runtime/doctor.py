"""What this machine can run: one real query per backend, and what is missing for the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cir_rt.bundle import open_bundle
from cir_rt.config import to_dict
from cir_rt.encoder import Encoder
from cir_rt.errors import BackendMissing, CirRtError
from cir_rt.gallery.exact import ExactIndex
from cir_rt.machine import instruction_set, versions
from cir_rt.nvidia import Jetson, driver_version, gpus, jetson

Trial = Callable[[str, str], Encoder]  # backend, device -> the shipped model on it

PACKAGES = {  # name -> what it serves, what installs it
    "onnx": ("build-engine", "pip install 'cir-rt[build]'"),
    "hnswlib": ("approximate search", "pip install 'cir-rt[hnsw]'  (needs a C++ compiler)"),
    "faiss-cpu": ("approximate and compact search", "pip install 'cir-rt[faiss]'"),
    "matplotlib": ("plots", "pip install 'cir-rt[plots]'"),
    "torch": ("train, export", "pip install 'cir-rt[export]'"),
    "pycuda": ("TensorRT, kernels", "pip install 'cir-rt[gpu]'  (needs the CUDA toolkit)"),
    "cuda-bindings": ("TensorRT, CUDA graphs", "pip install 'cir-rt[gpu]'"),
}
_TYPE = ":  "  # what stands after it in an error's text is to be typed
_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
_WORDS = "the same but in blue"
_AGREEMENT = 0.99  # cosine of a backend's query to the CPU's, in whatever precision it runs


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to run engines: what it found here, and whether a query was answered."""

    name: str
    package: str | None  # with its version, None where it is not installed
    device: str | None
    answered: bool = False
    query_ms: float | None = None
    problem: str = ""
    repair: str = ""


@dataclass(frozen=True, kw_only=True)
class Package:
    """An optional package, by what it serves."""

    name: str
    version: str | None
    serves: str
    repair: str = ""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found on this machine."""

    machine: dict[str, Any]
    backends: tuple[Backend, ...]
    packages: tuple[Package, ...]

    @property
    def healthy(self) -> bool:
        """The embedded default, ONNX Runtime on the CPU, answers."""
        return self.backends[0].answered

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `cir-rt doctor --json`."""
        return {"healthy": self.healthy, **to_dict(self)}


class _Way(NamedTuple):
    """A backend on a kind of device, and the packages that may hold it."""

    backend: str
    device: str
    packages: tuple[str, ...]
    install: str

    @property
    def name(self) -> str:
        return f"{self.backend} on {self.device}"


_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # of which one overwrites the other
_WAYS = (
    _Way("onnxruntime", "cpu", _ONNXRUNTIMES, "pip install 'cir-rt[cpu]'"),
    _Way("onnxruntime", "cuda", _ONNXRUNTIMES, "pip install 'cir-rt[gpu]'"),
    _Way("tensorrt", "cuda", ("tensorrt",), "pip install 'cir-rt[gpu,tensorrt]'"),
    _Way("tensorrt-rtx", "cuda", ("tensorrt-rtx",), "pip install 'cir-rt[gpu,rtx]'"),
)
_DRIVER = "https://www.nvidia.com/drivers, where there is an NVIDIA GPU; a Jetson's is in JetPack"
_JETPACK_TENSORRT = (
    "sudo apt-get install -y python3-libnvinfer && python3 -m venv --system-site-packages .venv"
)


def examine(trial: Trial, bundle: Path | None = None) -> Examination:
    """Ask every backend one real query: on `bundle` the one that it was built for, else the trial.

    Nothing that is missing or broken raises; it is in the result, with what repairs it.
    """
    board = jetson()
    hardware = _gpus()
    built = None
    if bundle is not None:
        target = open_bundle(bundle).manifest.target
        built = f"{target.backend} on {target.device.partition(':')[0]}"
    reference: np.ndarray | None = None
    found = []
    for way in _WAYS:
        open_encoder = _opener(way, trial, bundle if built == way.name else None)
        state, query = _examined(way, open_encoder, hardware, board)
        if query is not None and built != way.name:
            reference = query if reference is None else reference
            state = _compared(state, query, reference)
        found.append(state)
    return Examination(
        machine=_machine(hardware, board),
        backends=tuple(found),
        packages=tuple(_package(name, *facts) for name, facts in PACKAGES.items()),
    )


def _opener(way: _Way, trial: Trial, bundle: Path | None) -> Callable[[], Encoder]:
    if bundle is None:
        return lambda: trial(way.backend, way.device)
    return lambda: Encoder.open(open_bundle(bundle), device=way.device)


def _examined(
    way: _Way, open_encoder: Callable[[], Encoder], hardware: str | CirRtError, board: Jetson | None
) -> tuple[Backend, np.ndarray | None]:
    """Return the backend's state, and its query's vector where it answered."""
    installed = [f"{name} {version}" for name in way.packages if (version := _version(name))]
    state = Backend(name=way.name, package=", ".join(installed) or None, device=None)
    if way.device == "cuda" and not isinstance(hardware, str):
        return replace(state, problem=_split(hardware)[0], repair=_DRIVER), None
    device = hardware if way.device == "cuda" else f"CPU with {instruction_set()}"
    state = replace(state, device=str(device))
    if not installed:
        own = board is not None and way.backend == "tensorrt"
        repair = _JETPACK_TENSORRT if own else way.install
        return replace(state, problem="not installed", repair=repair), None
    try:
        encoder = open_encoder()
        try:
            milliseconds, query = _ask(encoder)
        finally:
            encoder.close()
    except Exception as error:  # a library that is half there may raise anything
        said, typed = _split(error)
        return replace(state, problem=said, repair=typed or way.install), None
    state = replace(state, answered=True, query_ms=round(milliseconds, 2))
    if len(installed) > 1:
        mixed = f"{' and '.join(way.packages)} are both installed; one has overwritten the other"
        repair = f"pip uninstall -y {' '.join(way.packages)} && {way.install}"
        state = replace(state, problem=mixed, repair=repair)
    return state, query


def _ask(encoder: Encoder) -> tuple[float, np.ndarray]:
    """Rank drawn pictures for a picture and words; return milliseconds and the query's vector.

    Raises CirRtError for an answer that is none.
    """
    pictures = [Image.new("RGB", (96, 96), colour) for colour in _COLOURS]
    index = ExactIndex(encoder.encode_pictures(pictures))
    for _ in range(3):  # the last one counts: the first ones warm up
        start = time.perf_counter()
        v, u = encoder.encode_pictures(pictures[:1]), encoder.encode_texts([_WORDS])
        query, _ = encoder.compose(v, u)
        rows, _ = index.search(query, 3)
        milliseconds = 1000 * (time.perf_counter() - start)
    if not (np.isfinite(query).all() and (rows >= 0).all()):
        raise CirRtError("the query was not answered: its vector holds NaN or infinity.")
    return milliseconds, query


def _compared(state: Backend, query: np.ndarray, reference: np.ndarray) -> Backend:
    """Return the state, broken where its query is not the CPU's."""
    cosine = float((query * reference).sum())
    if cosine >= _AGREEMENT:
        return state
    told = f"answers differ from the CPU's: cosine {cosine:.3f}"
    return replace(state, answered=False, query_ms=None, problem=told, repair="")


def _gpus() -> str | CirRtError:
    """Return the GPUs in words, or why there is none."""
    try:
        names = [f"{gpu.name}, {gpu.capability}" for gpu in gpus()]
    except BackendMissing as missing:
        return missing
    driver = driver_version()
    return "; ".join(names) + (f", driver {driver}" if driver else "")


def _machine(hardware: str | CirRtError, board: Jetson | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "cpu": instruction_set(),
        "cores": os.cpu_count(),
        "gpu": hardware if isinstance(hardware, str) else None,
        "versions": versions("cir-rt", "numpy"),
    }
    return facts if board is None else {**facts, "jetson": to_dict(board)}


def _package(name: str, serves: str, install: str) -> Package:
    version = _version(name)
    return Package(name=name, version=version, serves=serves, repair="" if version else install)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _split(error: Exception) -> tuple[str, str]:
    """Return what an error says, and what it says to type."""
    text = " ".join(part.strip() for part in str(error).splitlines())
    said, _, typed = text.partition(_TYPE)
    if "cir-rt doctor" in typed:  # that is being done
        said, typed = said.rpartition(".")[0] or said, ""
    return said or type(error).__name__, typed.strip()
