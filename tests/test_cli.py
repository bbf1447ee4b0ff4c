"""The command line: help, JSON, exit codes, one clear line where something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from command_line import TEXT, THREADS, json_of, refused, run, shell

from cir_rt.bundle import open_bundle
from cir_rt.cli import cli
from cir_rt.retriever import Retriever


def commands() -> dict[str, click.Command]:
    """Return every command by what is typed for it."""
    found = dict(cli.commands)
    for name, group in cli.commands.items():
        if isinstance(group, click.Group):
            del found[name]
            found |= {f"{name} {inner}": command for inner, command in group.commands.items()}
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_ends_with_an_example(name: str) -> None:
    result = run(*name.split(), "--help")
    assert result.exit_code == 0
    summary, example = result.stdout.split("Example:")
    assert f"cir-rt {name}" in example
    assert "--json" in summary
    assert "--debug" in summary
    parts = example.split("cir-rt ", 1)[1].split()
    asked = {p for p in parts if p.startswith("-")}
    known = {o for p in commands()[name].params if isinstance(p, click.Option) for o in p.opts}
    assert asked <= known


def test_the_list_of_commands() -> None:
    for result in (run("--help"), run("-h")):
        assert result.exit_code == 0
        assert all(name in result.stdout for name in cli.commands)
    assert {"demo", "train", "evaluate", "export", "build-engine", "index", "search"} <= set(
        cli.commands
    )


def test_version() -> None:
    import cir_rt

    assert run("--version").stdout == f"cir-rt, version {cir_rt.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-command"], "No such command"),
        (["search", "--no-such-option"], "--no-such-option"),
        (["search"], "Missing argument"),
        (["search", "a", "b", "-k", "many"], "not a valid integer"),
        (["search", "a", "b", "--threads", "0"], "threads"),
        (["evaluate", "a"], "--data"),
        (["evaluate", "a", "--data", "b", "--weight", "1.5"], "weight"),
        (["build-engine", "a", "--out", "b", "--max-recall-drop", "-1"], "max-recall-drop"),
        (["index", "a", "--gallery", "b"], "Name an IMAGE_DIR"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], said: str) -> None:
    refused(run(*arguments), 2, said)


def test_evaluate_json(bundle: Path, garments: Path) -> None:
    values = json_of(run("evaluate", bundle, "--data", garments, THREADS, "--json"))
    fields = {"dataset", "split", "protocol", "queries", "gallery", "rerank", "recall"}
    assert set(values) == fields | {"groups", "mean"}
    assert (values["dataset"], values["split"], values["rerank"]) == ("fashioniq", "val", 0)
    assert set(values["recall"]) == {"R@1", "R@10", "R@50"}
    assert values["recall"]["R@50"] == 100.0  # galleries of 24
    assert values["gallery"] == 144
    for name, recall in values["recall"].items():
        mean = sum(g[name] for g in values["groups"].values()) / len(values["groups"])
        assert recall == pytest.approx(mean, abs=0.01)
    other = json_of(run("evaluate", bundle, "--data", garments, "--protocol=val-split", "--json"))
    assert other["protocol"].startswith("val-split")


def test_evaluate_for_people_and_refusals(bundle: Path, garments: Path, tmp_path: Path) -> None:
    result = run("evaluate", bundle, "--data", garments, "--weight", 1, THREADS)
    assert result.exit_code == 0
    assert "R@10" in result.stdout
    refused(run("evaluate", bundle, "--data", garments, "--split", "x"), 1, "It has: train, val")
    refused(run("evaluate", bundle, "--data", garments, "--protocol", "x"), 1, "no protocol 'x'")
    refused(run("evaluate", bundle, "--data", tmp_path), 1, "no dataset is recognised")
    refused(run("evaluate", tmp_path, "--data", garments), 1, "neither a bundle nor a checkpoint")
    refused(run("evaluate", bundle, "--data", garments, "--device", "cuda"), 1, "built for cpu")


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_build_engine_json(graphs: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / "new.cir"
    limit = ["--max-recall-drop", "100"]
    values = json_of(
        run("build-engine", graphs, "--out", out, "--precision", precision, *limit, "--json")
    )
    fields = {"bundle", "backend", "device", "precision", "size_bytes", "seconds", "quality"}
    assert fields | {"latency_ms"} <= set(values)
    assert {"cosine_min", "recall_before", "recall_after"} <= set(values["quality"])
    assert set(values["latency_ms"]) == {"before", "after"}
    assert (values["bundle"], values["precision"]) == (str(out), precision)
    opened = open_bundle(out)
    assert values["size_bytes"] == sum(f.size_bytes for f in opened.manifest.files.values())
    if precision == "fp32":
        assert values["quality"]["cosine_min"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        (["--precision", "fp7"], 2, "precision 'fp7' is not known"),
        (["--backend", "abacus"], 1, "BackendMissing: backend 'abacus'"),
        (["--device", "abacus"], 1, "BackendMissing: device 'abacus'"),
    ],
)
def test_build_engine_refuses(
    graphs: Path, tmp_path: Path, option: list[str], code: int, said: str
) -> None:
    refused(run("build-engine", graphs, "--out", tmp_path / "new.cir", *option), code, said)
    assert not (tmp_path / "new.cir").exists()


def test_build_engine_refuses_other_folders(graphs: Path, tmp_path: Path) -> None:
    refused(run("build-engine", tmp_path, "--out", tmp_path / "x"), 1, "CheckpointError")
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    refused(
        run("build-engine", graphs, "--out", tmp_path, "--precision=fp32"), 1, "is not a bundle"
    )
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_inspect(bundle: Path, gallery: Path, graphs: Path, tmp_path: Path) -> None:
    for folder, kind in ((bundle, "bundle"), (gallery, "gallery"), (graphs, "checkpoint")):
        assert json_of(run("inspect", folder, "--json"))["kind"] == kind
        assert kind in run("inspect", folder).stdout.splitlines()[0]
    copy = shutil.copytree(bundle, tmp_path / "copy.cir")
    assert run("inspect", copy, "--verify").exit_code == 0
    weights = copy / "compose.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    refused(run("inspect", copy, "--verify"), 1, "BundleError", "compose.safetensors: altered")
    assert run("inspect", copy).exit_code == 0
    refused(run("inspect", tmp_path), 1, "DataError")


def test_a_surprise_is_one_line_too(
    bundle: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise ZeroDivisionError("what a surprise")

    monkeypatch.setattr(Retriever, "search", surprise)
    result = run("search", bundle, gallery, "--text", "red")
    refused(result, 1, "ZeroDivisionError: what a surprise", "--debug")


def test_a_message_of_several_lines_is_one_line(
    bundle: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise RuntimeError("first\nsecond\nthird")

    monkeypatch.setattr(Retriever, "search", surprise)
    refused(run("search", bundle, gallery, "--text", "red"), 1, "RuntimeError: first")


def test_the_real_command(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    done = shell("search", bundle, gallery, "--text", TEXT, "-k2", THREADS, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert len(json.loads(done.stdout)["hits"]) == 2
    for debug in (False, True):
        done = shell("inspect", tmp_path, *(["--debug"] if debug else []), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert ("Traceback" in done.stderr) is debug
        assert "DataError" in done.stderr
    done = shell("search", "--nonsense", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_the_installed_command() -> None:
    command = Path(sys.executable).with_name("cir-rt")
    if not command.exists():
        pytest.skip("cir-rt is not installed beside this Python")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "cir-rt,")
