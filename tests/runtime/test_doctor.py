"""What `doctor` finds, on this machine and on played ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cir_rt import doctor
from cir_rt.cli import cli
from cir_rt.compose import WeightedComposer
from cir_rt.encoder import Encoder
from cir_rt.errors import BackendMissing, BundleError
from cir_rt.export.trial import trial_encoder
from cir_rt.nvidia import Gpu, Jetson

GPU = Gpu(name="NVIDIA RTX 6000", capability="sm_89", memory_bytes=48 << 30)
EVERYTHING = {
    "onnxruntime-gpu": "1.31.1",
    "tensorrt": "11.4.0",
    "tensorrt-rtx": "1.7.1",
    **dict.fromkeys(doctor.PACKAGES, "1.0"),
}


def on_the_cpu(backend: str, device: str) -> Encoder:
    """Answer for any backend."""
    return trial_encoder("onnxruntime", "cpu", Path())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Play a machine with packages, GPUs and perhaps a Jetson's board."""

    def play(
        packages: dict[str, str], gpus: list[Gpu] | None = None, board: Jetson | None = None
    ) -> None:
        def found() -> list[Gpu]:
            if gpus is None:
                raise BackendMissing("no NVIDIA driver here. See:  cir-rt doctor")
            return gpus

        monkeypatch.setattr(doctor, "_version", packages.get)
        monkeypatch.setattr(doctor, "gpus", found)
        monkeypatch.setattr(doctor, "jetson", lambda: board)
        monkeypatch.setattr(doctor, "driver_version", lambda: "580.1")

    return play


def by_name(found: doctor.Examination) -> dict[str, doctor.Backend]:
    return {backend.name: backend for backend in found.backends}


def test_this_machine_answers_on_its_cpu() -> None:
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["healthy"] is True
    first, *others = facts["backends"]
    assert (first["name"], first["answered"], first["problem"]) == (
        *("onnxruntime on cpu", True),
        "",
    )
    assert first["query_ms"] > 0
    assert all(b["answered"] or b["problem"] for b in others)
    assert {p["name"] for p in facts["packages"]} == set(doctor.PACKAGES)


def test_a_bundle_is_asked_for_its_own_backend(
    bundle: Path, machine: Callable[..., None], tmp_path: Path
) -> None:
    machine({"onnxruntime": "1.31.1"})

    def refuse(backend: str, device: str) -> Encoder:
        raise AssertionError(f"{backend} on {device} was tried")

    found = doctor.examine(refuse, bundle)
    assert found.healthy
    copy = shutil.copytree(bundle, tmp_path / "copy.cir")
    (copy / "onnx" / "image.onnx").write_bytes(b"")
    with pytest.raises(BundleError):
        doctor.examine(refuse, copy)


def test_everything_answers(machine: Callable[..., None]) -> None:
    machine(EVERYTHING, [GPU])
    found = doctor.examine(on_the_cpu)
    assert [b.answered for b in found.backends] == [True] * 4
    assert not any(b.problem or b.repair for b in found.backends)
    assert found.backends[1].device == "NVIDIA RTX 6000, sm_89, driver 580.1"
    assert found.machine["gpu"] == found.backends[1].device
    assert not any(p.repair for p in found.packages)
    assert json.loads(json.dumps(found.to_json()))["healthy"] is True


def test_nothing_is_installed(machine: Callable[..., None]) -> None:
    machine({}, [GPU])
    found = doctor.examine(on_the_cpu)
    assert not found.healthy
    repairs = {name: backend.repair for name, backend in by_name(found).items()}
    assert repairs == {
        "onnxruntime on cpu": "pip install 'cir-rt[cpu]'",
        "onnxruntime on cuda": "pip install 'cir-rt[gpu]'",
        "tensorrt on cuda": "pip install 'cir-rt[gpu,tensorrt]'",
        "tensorrt-rtx on cuda": "pip install 'cir-rt[gpu,rtx]'",
    }
    assert all("cir-rt[" in p.repair for p in found.packages)


def test_no_gpu_is_one_trouble_not_four(machine: Callable[..., None]) -> None:
    machine({"onnxruntime": "1.31.1", "tensorrt": "11.4.0"})
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("no NVIDIA driver here") == 1
    assert "nvidia.com/drivers" in done.stdout
    assert "onnxruntime on cuda, tensorrt on cuda, tensorrt-rtx on cuda: no NVIDIA" in done.stdout


def test_exit_code_1_where_the_cpu_does_not_answer(machine: Callable[..., None]) -> None:
    machine({})
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 1
    assert "onnxruntime on cpu: not installed\n    pip install 'cir-rt[cpu]'" in done.stdout


def test_both_onnxruntimes_side_by_side(machine: Callable[..., None]) -> None:
    machine({**EVERYTHING, "onnxruntime": "1.31.1"}, [GPU])
    found = by_name(doctor.examine(on_the_cpu))
    for device, extra in (("cpu", "cpu"), ("cuda", "gpu")):
        state = found[f"onnxruntime on {device}"]
        assert "both installed" in state.problem
        assert state.repair == (
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'cir-rt[{extra}]'"
        )
        assert state.answered


def test_what_fails_says_what_to_type(machine: Callable[..., None]) -> None:
    machine(EVERYTHING, [GPU])

    def fail(backend: str, device: str) -> Encoder:
        if device == "cpu":
            return on_the_cpu(backend, device)
        if backend == "tensorrt":
            raise BackendMissing("too old. Expected 10.3.\nUpgrade it:  pip install -U tensorrt")
        raise RuntimeError("CUDA failure 999: unknown error")

    found = by_name(doctor.examine(fail))
    assert found["onnxruntime on cpu"].answered
    old, broken = found["tensorrt on cuda"], found["onnxruntime on cuda"]
    assert (old.problem, old.repair) == (
        "too old. Expected 10.3. Upgrade it",
        "pip install -U tensorrt",
    )
    assert (broken.answered, broken.problem) == (False, "CUDA failure 999: unknown error")
    assert broken.repair == "pip install 'cir-rt[gpu]'"


@pytest.mark.parametrize(("harm", "said"), [(np.nan, "NaN"), (-1.0, "differ.*cosine -1")])
def test_a_wrong_answer_is_no_answer(machine: Callable[..., None], harm: float, said: str) -> None:
    machine(EVERYTHING, [GPU])

    class Harmed(WeightedComposer):
        def __call__(self, v: Any, u: Any, weight: float | None = None) -> Any:
            return harm * super().__call__(v, u)[0], None

    def damaged(backend: str, device: str) -> Encoder:
        encoder = on_the_cpu(backend, device)
        if backend == "tensorrt":
            encoder.compose = Harmed(encoder.compose.gate)
        return encoder

    state = by_name(doctor.examine(damaged))["tensorrt on cuda"]
    assert (state.answered, state.query_ms) == (False, None)
    assert re.search(said, state.problem)


def test_a_jetson_is_named_and_keeps_its_own_tensorrt(machine: Callable[..., None]) -> None:
    board = Jetson(model="Orin", linux="36.4", jetpack="6.1", tensorrt="10.3.0.30")
    machine({"onnxruntime": "1.31.1"}, [GPU], board)
    found = doctor.examine(on_the_cpu)
    assert found.machine["jetson"] == {
        "model": "Orin",
        "linux": "36.4",
        "jetpack": "6.1",
        "tensorrt": "10.3.0.30",
    }
    repair = by_name(found)["tensorrt on cuda"].repair
    assert "python3-libnvinfer" in repair
    assert "--system-site-packages" in repair
