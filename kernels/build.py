"""The kernels' build: nvcc makes one fatbin of csrc/ for the architectures asked for.

A fatbin is named after what it was made of: sources, headers, flags and the compiler's version.
It is built once into a cache folder, under a temporary name until it is whole, with the compiler's
log beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cir_rt.errors import BackendMissing, CompileError, UsageError

ARCHS = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_110", "sm_120")
SOURCES = Path(__file__).resolve().parent / "csrc"
MAIN = "kernels.cu"
FLAGS = ("-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v")

_PLACES = ("/usr/local/cuda/bin/nvcc",)  # where it often is without being on the PATH
_JETSON = Path("/etc/nv_tegra_release")  # JetPack 6 says R36 there, JetPack 7 R38 and on
_INSTALL = (
    "Install CUDA's compiler (Debian, Ubuntu: sudo apt-get install cuda-nvcc-13-0; JetPack 6: "
    "cuda-nvcc-12-6), or build on a workstation for the device's architecture and carry the file."
)


@dataclass(frozen=True, kw_only=True)
class Fatbin:
    """Compiled kernels, and what the compiler said."""

    path: Path
    archs: tuple[str, ...]  # sm_90
    left_out: tuple[str, ...]  # asked for, but not known to this compiler
    nvcc: str  # its version: 13.0
    log: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a kernel takes on one architecture."""

    kernel: str
    arch: str
    registers: int
    spilled_bytes: int  # stores and loads of registers that found no room


def default_cache() -> Path:
    """Return where what was compiled is kept unless said: $XDG_CACHE_HOME/cir-rt."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cir-rt"


def build(
    archs: Sequence[str] = ARCHS,
    *,
    cache: Path | None = None,
    nvcc: str | None = None,
    sources: Path = SOURCES,
    flags: Sequence[str] = FLAGS,
) -> Fatbin:
    """Return the kernels compiled for these architectures, from the cache where they are there.

    Architectures that the compiler does not know are left out and named. Raises BackendMissing
    without nvcc, or with one that JetPack 6 cannot take; UsageError for a name that is no
    architecture; CompileError, with the whole log, where the compiler fails or knows none of them.
    """
    unknown = [name for name in archs if name not in ARCHS]
    if unknown or not archs:
        raise UsageError(f"architecture {', '.join(unknown)!r}. Expected of: {', '.join(ARCHS)}.")
    compiler = nvcc or find_nvcc()
    version = nvcc_version(compiler)
    _check_jetpack(version)
    known = _known(compiler)
    chosen = tuple(name for name in ARCHS if name in archs and name in known)
    left_out = tuple(name for name in ARCHS if name in archs and name not in known)
    if not chosen:
        raise CompileError(
            f"nvcc {version} knows none of {', '.join(left_out)}. It knows {', '.join(known)}."
        )
    command = [compiler, *flags]
    for name in chosen:
        command.append(f"-gencode=arch={name.replace('sm_', 'compute_')},code={name}")
    folder = cache or default_cache() / "kernels"
    path = folder / f"kernels-{_digest(sources, version, command[1:])}.fatbin"
    log = path.with_suffix(".log")
    if not (path.is_file() and log.is_file()):
        _compile(command, sources, path)
    told = log.read_text(encoding="utf-8")
    return Fatbin(path=path, archs=chosen, left_out=left_out, nvcc=version, log=told)


def find_nvcc() -> str:
    """Return the path of nvcc. Raises BackendMissing where there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [*(str(Path(home, "bin", "nvcc")) for home in homes), "nvcc", *_PLACES]
    found = next(filter(None, map(shutil.which, places)), None)
    if found is None:
        raise BackendMissing(f"nvcc is not found. {_INSTALL}")
    return found


@lru_cache
def nvcc_version(nvcc: str) -> str:
    """Return major and minor of a compiler: 13.0. Raises CompileError where it does not say."""
    told = _run([nvcc, "--version"])
    found = re.search(r"release (\d+\.\d+)", told)
    if not found:
        raise CompileError(f"{nvcc} --version does not name a release:\n{told}")
    return found[1]


def usages(log: str) -> list[Usage]:
    """Read what each kernel takes out of a compiler's log."""
    found = []
    blocks = re.split(r"Compiling entry function ", log)[1:]
    for block in blocks:
        name = re.match(r"'(\w+)' for '(sm_\d+)", block)
        used = re.search(r"Used (\d+) registers", block)
        spills = re.findall(r"(\d+) bytes spill", block)
        if name and used:
            found.append(
                Usage(
                    kernel=name[1],
                    arch=name[2],
                    registers=int(used[1]),
                    spilled_bytes=sum(map(int, spills)),
                )
            )
    return found


def _check_jetpack(version: str) -> None:
    """Raise BackendMissing on JetPack 6 with a compiler that its driver does not follow."""
    jetpack6 = _JETSON.is_file() and "R36" in _JETSON.read_text(encoding="utf-8")
    if jetpack6 and int(version.split(".")[0]) > 12:
        raise BackendMissing(
            f"nvcc {version} on JetPack 6, whose driver loads only what nvcc 12 compiled. "
            "Install that:  sudo apt-get install cuda-nvcc-12-6"
        )


@lru_cache
def _known(nvcc: str) -> tuple[str, ...]:
    return tuple(re.findall(r"sm_\d+\b", _run([nvcc, "--list-gpu-code"])))


def _digest(sources: Path, version: str, flags: Sequence[str]) -> str:
    found = hashlib.sha256(f"{version}\0{' '.join(flags)}\0".encode())
    for path in sorted([*sources.glob("*.cu"), *sources.glob("*.cuh")]):
        content = path.read_bytes()
        found.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:32]


def _compile(command: Sequence[str], sources: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
        out = Path(folder, path.name)
        told = _run([*command, "-fatbin", "-o", str(out), str(sources / MAIN)])
        out.with_suffix(".log").write_text(told, encoding="utf-8")
        out.with_suffix(".log").replace(path.with_suffix(".log"))
        out.replace(path)


def _run(command: Sequence[str]) -> str:
    """Return what a command printed. Raises CompileError with all of it where it fails."""
    try:
        done = subprocess.run(
            command, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise BackendMissing(f"{command[0]} does not run ({error}). {_INSTALL}") from error
    if done.returncode != 0:
        raise CompileError(f"{' '.join(command)}\nfailed ({done.returncode}):\n{done.stdout}")
    return done.stdout
