"""What a machine says of itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cir_rt import machine


@pytest.fixture
def _fresh() -> Iterator[None]:
    machine.instruction_set.cache_clear()
    yield
    machine.instruction_set.cache_clear()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu sse2 avx2 avx512f avx512_vnni amx_int8", "avx512_vnni"),
        ("flags : fpu avx2 avx_vnni", "avx_vnni"),
        ("flags : fpu avx2 avx512f", "avx512f"),
        ("flags : fpu avx2", "avx2"),
        ("Features : fp asimd asimddp", "asimddp"),
        ("Features : fp asimd", "asimd"),
        ("flags : fpu sse2 avx2x", platform.machine()),
        (None, platform.machine()),
    ],
)
def test_the_strongest_instruction_set(
    monkeypatch: pytest.MonkeyPatch, flags: str | None, expected: str
) -> None:
    def read(*_: object, **__: object) -> str:
        if flags is None:
            raise FileNotFoundError
        return flags

    monkeypatch.setattr(Path, "read_text", read)
    assert machine.instruction_set() == expected


@pytest.mark.parametrize(("name", "arm"), [("aarch64", True), ("arm64", True), ("x86_64", False)])
def test_arm(monkeypatch: pytest.MonkeyPatch, name: str, arm: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: name)
    assert machine.is_arm() is arm


def test_versions_of_what_is_installed() -> None:
    found = machine.versions("numpy", "no-such-package-anywhere")
    assert found == {"python": platform.python_version(), "numpy": np.__version__}


def test_the_environment_goes_into_json() -> None:
    values = json.loads(json.dumps(machine.environment()))
    assert values["cores"] >= 1
    assert values["instruction_set"] == machine.instruction_set()
    assert values["versions"]["numpy"] == np.__version__
