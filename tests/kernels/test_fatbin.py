"""The kernels' build with a compiler that is played, and with nvcc where it is here."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path

import pytest

from cir_rt.errors import BackendMissing, CompileError, UsageError
from cir_rt.kernels import build as module
from cir_rt.kernels.build import ARCHS, SOURCES, build, find_nvcc, nvcc_version, usages

PLAYED = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
--list-gpu-code) printf '{known}' ;;
*)
    echo "$@" >> {calls}
    {act}
    while [ "$1" != -o ]; do shift; done
    echo fatbin > "$2"
    echo "ptxas info : Compiling entry function 'scan' for 'sm_80'"
    echo "    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads"
    echo "ptxas info : Used 128 registers" ;;
esac
"""


class Played:
    """A compiler that notes how it was called."""

    def __init__(self, folder: Path, *, version: str = "13.0", act: str = "true") -> None:
        self.path, self._calls = folder / "nvcc", folder / "calls"
        known = r"sm_80\nsm_90\n"
        text = PLAYED.format(version=version, known=known, calls=self._calls, act=act)
        self.path.write_text(text)
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOURCES, tmp_path / "csrc"))


def test_it_is_built_once_for_the_same_sources_flags_and_compiler(
    tmp_path: Path, sources: Path
) -> None:
    nvcc, cache = Played(tmp_path), tmp_path / "cache"
    first = build(["sm_80"], cache=cache, nvcc=str(nvcc), sources=sources)
    again = build(["sm_80"], cache=cache, nvcc=str(nvcc), sources=sources)
    assert first == again
    assert first.path.read_text() == "fatbin\n"
    assert len(nvcc.calls) == 1
    assert "-gencode=arch=compute_80,code=sm_80" in nvcc.calls[0]
    assert "-Werror all-warnings" in nvcc.calls[0]
    others = [
        build(["sm_90"], cache=cache, nvcc=str(nvcc), sources=sources),
        build(["sm_80"], cache=cache, nvcc=str(nvcc), sources=sources, flags=["-O2"]),
    ]
    header = sources / "device.cuh"
    header.write_text(header.read_text() + "\n")
    others.append(build(["sm_80"], cache=cache, nvcc=str(nvcc), sources=sources))
    (tmp_path / "other").mkdir()
    newer = Played(tmp_path / "other", version="13.1")
    others.append(build(["sm_80"], cache=cache, nvcc=str(newer), sources=sources))
    assert len({first.path, *(other.path for other in others)}) == 5
    assert sorted(x.suffix for x in cache.iterdir()) == [".fatbin"] * 5 + [".log"] * 5


def test_architectures_that_the_compiler_does_not_know_are_left_out(tmp_path: Path) -> None:
    nvcc = str(Played(tmp_path))
    found = build(["sm_120", "sm_90", "sm_80"], cache=tmp_path, nvcc=nvcc)
    assert found.archs == ("sm_80", "sm_90")
    assert found.left_out == ("sm_120",)
    with pytest.raises(CompileError, match=r"13\.0 knows none of sm_120. It knows sm_80, sm_90"):
        build(["sm_120"], cache=tmp_path, nvcc=nvcc)


def test_the_whole_log_is_in_the_error_and_nothing_is_left(tmp_path: Path) -> None:
    nvcc = Played(tmp_path, act="echo 'scan.cu(7): error: no'; echo more; exit 2")
    with pytest.raises(CompileError, match=r"(?s)-gencode.*error: no\nmore"):
        build(["sm_80"], cache=tmp_path / "cache", nvcc=str(nvcc))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_compiler_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_PLACES", ())
    with pytest.raises(BackendMissing, match="apt-get install cuda-nvcc"):
        build(["sm_80"], cache=tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    nvcc = Played(tmp_path / "bin")
    assert find_nvcc() == str(nvcc)


@pytest.mark.parametrize(("version", "taken"), [("13.0", False), ("12.6", True)])
def test_jetpack_6_takes_what_nvcc_12_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")
    monkeypatch.setattr(module, "_JETSON", release)
    nvcc = str(Played(tmp_path, version=version))
    if taken:
        assert build(["sm_80"], cache=tmp_path, nvcc=nvcc).nvcc == "12.6"
        return
    with pytest.raises(BackendMissing, match="cuda-nvcc-12-6"):
        build(["sm_80"], cache=tmp_path, nvcc=nvcc)


@pytest.mark.parametrize("archs", [["sm_81"], ["90"], []])
def test_what_is_no_architecture_is_refused(tmp_path: Path, archs: list[str]) -> None:
    with pytest.raises(UsageError, match="Expected of: sm_75, sm_80"):
        build(archs, cache=tmp_path, nvcc=str(Played(tmp_path)))


def test_the_log_tells_registers_and_spills(tmp_path: Path) -> None:
    (usage,) = usages(build(["sm_80"], cache=tmp_path, nvcc=str(Played(tmp_path))).log)
    assert (usage.kernel, usage.arch) == ("scan", "sm_80")
    assert (usage.registers, usage.spilled_bytes) == (128, 12)


def test_nothing_spills_on_any_architecture(tmp_path: Path) -> None:
    """All kernels with nvcc itself; without a GPU, what they do there is not shown by this."""
    try:
        nvcc_version(find_nvcc())
    except BackendMissing:
        pytest.skip("nvcc is not here")
    fatbin = build(cache=tmp_path)
    told = usages(fatbin.log)
    assert set(fatbin.archs) | set(fatbin.left_out) == set(ARCHS)
    assert {usage.arch for usage in told} == set(fatbin.archs)
    assert {usage.kernel for usage in told} == _kernels()
    assert len(told) == len(fatbin.archs) * len(_kernels())
    assert [usage for usage in told if usage.spilled_bytes] == []


def _kernels() -> set[str]:
    """List the kernels that the sources declare."""
    text = "".join(path.read_text() for path in SOURCES.glob("*.cu"))
    return set(re.findall(r"^KERNEL\((\w+),", text, re.MULTILINE))
