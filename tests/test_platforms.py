"""Every platform line of the README is resolved by pip, for machines that are not here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# platform -> machine, its Python, its glibc
PLATFORMS = {
    "CPU box, x86": ("x86_64", "3.10", 31),
    "CPU box, Arm": ("aarch64", "3.12", 36),
    "Jetson, JetPack 6": ("aarch64", "3.10", 35),
    "Jetson, JetPack 7": ("aarch64", "3.12", 39),
    "datacenter GPU, x86": ("x86_64", "3.12", 35),
    "kiosk with an RTX card": ("x86_64", "3.11", 35),
}
HERE = "workstation"  # the tests' own environment is that line
SOURCE_ONLY = {"hnswlib", "pycuda", "tensorrt", "tensorrt-rtx"}  # no wheel to ask for
# NOTE: pip takes the target's wheels by --platform, but weighs `; platform_machine == …` by the
# machine that it runs on. So it is told that it runs on the target.
PIP = """
import platform, sys
machine, version = sys.argv[1:3]
platform.machine = lambda: machine
platform.python_version = lambda: version + ".0"
platform.python_version_tuple = lambda: (*version.split("."), "0")
from pip._internal.cli.main import main
sys.exit(main(sys.argv[3:]))
"""


def lines() -> dict[str, list[str]]:
    """Return what the README's table tells to install, by platform."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \|[^|]*\| `pip install (.*)` \|$", text, re.MULTILINE)
    return {name: re.findall(r"'([^']+)'", wanted) for name, wanted in rows}


def requirements(wanted: list[str]) -> list[str]:
    """Return a line's requirements: this package's own in place of `.[extra,…]`."""
    toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own, *others = wanted
    extras = re.fullmatch(r"\.\[([\w,-]+)\]", own)[1].split(",")
    named = [r for extra in extras for r in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *named, *others]


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def pip(machine: str, version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip as on another machine."""
    command = [sys.executable, "-c", PIP, machine, version, *arguments, "--retries=0"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


def resolve(platform: str, folder: Path) -> subprocess.CompletedProcess[str]:
    machine, version, glibc = PLATFORMS[platform]
    wanted = [r for r in requirements(lines()[platform]) if name_of(r) not in SOURCE_ONLY]
    tags = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(5, glibc + 1)]
    return pip(
        *(machine, version, "install", "--dry-run", "--quiet", "--only-binary=:all:"),
        "--use-feature=fast-deps",  # reads what a wheel needs without its hundreds of megabytes
        *("--report=-", f"--target={folder}", "--implementation=cp"),
        *(f"--python-version={version}", *tags, *wanted),
    )


def versions(package: str) -> subprocess.CompletedProcess[str]:
    return pip("x86_64", "3.12", "index", "versions", package)


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, subprocess.CompletedProcess[str]]:
    """Return pip's answers by platform, and by package for those that come as source."""
    folder = tmp_path_factory.mktemp("platforms")
    try:
        reached = versions("click")
        if reached.returncode:
            pytest.skip(f"no package index can be reached: {reached.stderr.strip()[-200:]}")
        with ThreadPoolExecutor(4) as asking:  # they wait for the index, not for the processor
            asked = {name: asking.submit(resolve, name, folder) for name in PLATFORMS}
            asked |= {name: asking.submit(versions, name) for name in SOURCE_ONLY}
            return {name: answer.result() for name, answer in asked.items()}
    except subprocess.TimeoutExpired:
        pytest.skip("the package index did not answer in time")


def test_the_readme_has_a_line_for_each_platform() -> None:
    assert set(lines()) == {*PLATFORMS, HERE}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_platforms_line_resolves(
    answers: dict[str, subprocess.CompletedProcess[str]], platform: str
) -> None:
    done = answers[platform]
    assert done.returncode == 0, done.stderr
    found = {item["metadata"]["name"].lower() for item in json.loads(done.stdout)["install"]}
    assert {"numpy", "pillow", "safetensors", "tokenizers", "click", "onnx"} <= found
    assert len({"onnxruntime", "onnxruntime-gpu"} & found) == 1  # one would overwrite the other
    assert "torch" not in found


@pytest.mark.parametrize("package", sorted(SOURCE_ONLY))
def test_what_comes_as_source_is_there(
    answers: dict[str, subprocess.CompletedProcess[str]], package: str
) -> None:
    wanted = [r for line in lines().values() for r in requirements(line)]
    (asked,) = {r for r in [*wanted, "hnswlib>=0.8"] if name_of(r) == package}
    assert answers[package].returncode == 0, answers[package].stderr
    newest = re.search(r"\((\d+)", answers[package].stdout)[1]
    assert int(newest) >= int(re.search(r">=(\d+)", asked)[1])
