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
PAGES = (
    *("README.md", "CONTRIBUTING.md"),
    *("docs/compile.md", "docs/data.md", "docs/gallery.md", "docs/kernels.md"),
    *("docs/profile.md", "docs/serve.md", "docs/deploy.md", "docs/structure.md"),
)


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


def leaves() -> dict[str, click.Command]:
    """Return every command by the words that name it, those below a group too."""
    found: dict[str, click.Command] = {}
    for name, command in cli.commands.items():
        below = command.commands if isinstance(command, click.Group) else {}
        found |= {f"{name} {part}": one for part, one in below.items()} or {name: command}
    return found


def parse(words: list[str]) -> None:
    """Raise click.UsageError for words that no command takes."""
    for length in (2, 1):
        command = leaves().get(" ".join(words[:length]))
        if command:
            command.make_context(" ".join(words[:length]), words[length:])
            return
    raise click.UsageError(f"no command {words[0]}")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_is_one_that_the_command_line_takes(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("name", sorted(leaves()))
def test_each_example_in_the_help_is_one_that_it_takes(name: str) -> None:
    words = shlex.split((leaves()[name].epilog or "").splitlines()[-1])
    assert " ".join(words).startswith(f"cir-rt {name}")
    parse(words[1:])


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
