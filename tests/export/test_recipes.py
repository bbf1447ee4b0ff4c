"""Check training recipes and their TOML files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cir_rt.config import from_dict, to_dict
from cir_rt.errors import ConfigError, UsageError
from cir_rt.export.train.recipes import Progressive, read_recipe


def toml(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    lines = [
        "epochs = 3",
        "weight_decay = 0",
        "[preprocess]",
        "size = 64",
        "[image]",
        'kind = "conv"',
        "[image.settings]",
        "widths = [8, 16]",
        "[augment]",
        "flip = 0.25",
    ]
    recipe = read_recipe("progressive", toml(tmp_path, "\n".join(lines)))
    assert (recipe.epochs, recipe.weight_decay, recipe.preprocess.size) == (3, 0.0, 64)
    assert recipe.image.settings == {"widths": [8, 16]}
    assert recipe.augment == {"flip": 0.25}
    assert recipe.learning_rate == Progressive().learning_rate


def test_without_a_file_it_is_the_default() -> None:
    assert read_recipe("progressive") == Progressive()


def test_an_unknown_recipe_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'progresive'\. Known: progressive"):
        read_recipe("progresive")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"mine\.toml has no setting 'epoch'\. Did you mean 'epochs'\?"),
        ("[preprocess]\nsice = 3", r"preprocess has no setting 'sice'\. Did you mean 'size'\?"),
        ("epochs = 'many'", "epochs: expected int"),
        ("[preprocess]\nfit = 'stretch'", "fit must be one of crop, pad"),
        ("epochs = ", "not readable as TOML"),
        ("image = 3", "expected a table"),
    ],
)
def test_a_file_that_does_not_fit_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe("progressive", toml(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        read_recipe("progressive", tmp_path / "none.toml")


def test_a_recipe_is_a_value() -> None:
    recipe = Progressive(epochs=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 3  # type: ignore[misc]
    assert from_dict(Progressive, json.loads(json.dumps(to_dict(recipe)))).epochs == 2


def test_shares_of_a_run_are_at_most_all_of_it() -> None:
    assert Progressive(image_text=0.25, domain=0.75).domain == 0.75
    for wrong in ({"image_text": 0.5, "domain": 0.6}, {"domain": -0.1}, {"image_text": 1.1}):
        with pytest.raises(ValueError, match="at most 1 together"):
            Progressive(**wrong)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Progressive(weight=1.0)
