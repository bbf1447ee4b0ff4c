"""The README's commands and its Python are tried as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from cir_rt.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/data.md", "docs/structure.md", "CONTRIBUTING.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[list[str]]:
    """Return every `cir-rt …` line of the pages' shell blocks, as arguments."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0].endswith("cir-rt"):
                    found.append(words[1:])
    return found


def test_the_readme_has_commands() -> None:
    assert {words[0] for words in commands()} >= {"search", "index", "build-engine", "train"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_is_one_that_the_command_line_takes(words: list[str]) -> None:
    command = cli.commands[words[0]]
    command.make_context(words[0], list(words[1:]))


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_example_in_the_help_is_one_that_it_takes(name: str) -> None:
    example = (cli.commands[name].epilog or "").splitlines()[-1]
    words = shlex.split(example)
    assert words[:2] == ["cir-rt", name]
    cli.commands[name].make_context(name, words[2:])


def test_a_wrong_option_would_be_seen() -> None:
    with pytest.raises(click.UsageError):
        cli.commands["index"].make_context("index", ["shoes.cir", "--galery", "x"])


def test_the_python_runs(
    bundle: Path,
    gallery: Path,
    garments: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(bundle, tmp_path / "shoes.cir")
    shutil.copytree(gallery, tmp_path / "shoes.gallery")
    picture = next((garments / "images").glob("*-val-*.jpg"))
    shutil.copyfile(picture, tmp_path / "ref.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12  # ten hits, weights, timing
    assert lines[0].startswith("1 ")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    missing = [t for t in targets if not ((ROOT / page).parent / t).exists()]
    assert not missing
