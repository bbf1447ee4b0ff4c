"""Read Birds-to-Words' layout, on a made file: the published one has not been at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.birds import swapped
from cir_rt.export.data.formats import open_dataset

COLUMNS = [
    *(f"img1{name}" for name in ("ObservationURL", "ImgURL", "Species", "Selection")),
    *(f"img2{name}" for name in ("ObservationURL", "ImgURL", "Species", "Selection")),
    *("split", "annN", "description"),
]


def row(left: int, right: int, split: str, description: str) -> str:
    sides = [
        part
        for photo in (left, right)
        for part in (
            f"https://www.inaturalist.org/photos/{photo}",
            f"https://static.inaturalist.org/photos/{photo}/large.jpg?14",
            "Anas acuta",
            "visual",
        )
    ]
    return "\t".join([*sides, split, "1", description])


def made(folder: Path, *rows: str, columns: list[str] = COLUMNS) -> Path:
    text = "\n".join(["\t".join(columns), *rows]) + "\n"
    (folder / "birds-to-words-v1.0.tsv").write_text(text, encoding="utf-8")
    return folder


def test_a_made_folder_is_read(tmp_path: Path) -> None:
    rows = [
        row(1, 2, "train", "animal1 is red. Animal2's beak is long"),
        row(30, 4, "test", 'animal1 is a "duck"'),
        row(30, 4, "test", "animal2 is brown"),
        row(5, 30, "test", "animal2 is small"),
    ]
    dataset = open_dataset(made(tmp_path, *rows))
    train, test = dataset.split("train"), dataset.split("test")
    assert dataset.name == "birds"
    assert [(q.reference, *q.targets, q.text) for q in train.queries] == [
        ("1", "2", "animal1 is red. Animal2's beak is long"),
        ("2", "1", "animal2 is red. Animal1's beak is long"),
    ]
    # a query for each description, and never the other way round
    assert [(q.reference, *q.targets, q.text) for q in test.queries] == [
        ("30", "4", 'animal1 is a "duck"'),
        ("30", "4", "animal2 is brown"),
        ("5", "30", "animal2 is small"),
    ]
    assert test.galleries == {"all": ("30", "4", "5")}
    assert test.protocol.keep_reference is True
    assert "not verified" in str(test.protocol)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("animal1 and animal2", "animal2 and animal1"),
        ("Animal 1, ANIMAL 2; animal1.", "Animal 2, ANIMAL 1; animal2."),
        ("animal12 has 2 animals 1", "animal12 has 2 animals 1"),
        ("", ""),
    ],
)
def test_animals_are_exchanged(text: str, expected: str) -> None:
    assert swapped(text) == expected
    assert swapped(swapped(text)) == text


@pytest.mark.parametrize("column", ["img1ImgURL", "img2ImgURL", "split", "description"])
def test_a_lacking_column_is_named(tmp_path: Path, column: str) -> None:
    renamed = [name if name != column else "other" for name in COLUMNS]
    made(tmp_path, row(1, 2, "val", "x"), columns=renamed)
    with pytest.raises(DataError, match=r"v1\.0\.tsv:2: expected img1ImgURL, img2ImgURL"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    ["a\tb", row(1, 2, "val", " "), row(1, 2, "val", "x").replace("/photos/1/", "/1/")],
    ids=["short", "no description", "no photo number"],
)
def test_a_malformed_line_is_named(tmp_path: Path, wrong: str) -> None:
    made(tmp_path, row(1, 2, "val", "x"), wrong)
    with pytest.raises(DataError, match=r"v1\.0\.tsv:3: "):
        open_dataset(tmp_path)
