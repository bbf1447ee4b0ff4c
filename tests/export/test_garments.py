"""Check the drawn garments against readers that know only the pictures, the words, or both."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir_rt.export.data.garments import Garment, Scene, draw, write
from cir_rt.export.data.garments.attributes import ARTICLES, ATTRIBUTES, COLOURS, values
from cir_rt.export.data.garments.captions import captions
from cir_rt.export.data.garments.families import Member, gallery, pairs

Stated = dict[str, set[str]]
_PICTURES, _QUERIES = {"train": 22, "val": 14}, {"train": 30, "val": 9}
_LEXICON = {
    "pattern": {
        "plain": r"plain|solid|no pattern",
        "striped": r"stripp?e",
        "dotted": r"dot",
        "checked": r"check",
        "floral": r"flor|flower",
    },
    "sleeve": {
        "sleeveless": r"sleeveless|no sleev|without sleev",
        "short": r"short sleev",
        "long": r"long sleev",
    },
    "neckline": {
        "round": r"(round|crew) neck",
        "v-neck": r"\bv[ -](shaped )?neck",
        "square": r"square neck",
        "band": r"band neck|(band|stand up) coll",
        "collar": r"(?<!band )(?<!up )coll[ae]r",
        "hood": r"hood",
    },
    "length": {
        "knee": r"knee",
        "short": r"\bshort\b(?! sleev)",
        "long": r"(\blong\b(?! sleev))|full length",
    },
}


def read(caption: str, reference: Garment | None, article: str) -> Stated:
    """Understand a caption: the values each attribute named may have.

    A relative word is resolved on the reference where there is one, else it only excludes.
    """
    text = re.sub(r"(instead of|, not) .*", "", caption.lower())
    stated: Stated = {}
    for name, lexicon in _LEXICON.items():
        found = {value for value, words in lexicon.items() if re.search(words, text)}
        if found:
            stated[name] = found
    shades = text.replace("dark blue", "navy").replace("navy blue", "navy").replace("gray", "grey")
    if found := set(re.findall(rf"\b({'|'.join(COLOURS)})\b", shades)):
        stated["colour"] = found
    for name, ending in (("sleeve", " sleev"), ("length", r"(?! sleev)")):
        if relative := re.search(rf"\b(longer|shorter)\b{ending}", text):
            ladder = values(article, name)
            step = 1 if relative[1] == "longer" else -1
            if reference is None:
                stated[name] = set(ladder[1:] if step > 0 else ladder[:-1])
            else:
                stated[name] = {ladder[ladder.index(reference[name]) + step]}
    return stated


def understood(said: tuple[str, str], reference: Garment | None, article: str) -> Stated:
    """Combine what both annotators say."""
    both = [read(caption, reference, article) for caption in said]
    names = set(both[0]) | set(both[1])
    everything = set().union(*(values(article, name) for name in ATTRIBUTES))
    return {name: both[0].get(name, everything) & both[1].get(name, everything) for name in names}


def recall(
    members: list[Member],
    chosen: list[tuple[int, int]],
    score: Callable[[int, int, Garment], float],
) -> float:
    """Rank the gallery for each query by a score, ties at random; give recall at 10."""
    rng = np.random.default_rng(0)
    hits = 0
    for number, (reference, target) in enumerate(chosen):
        scores = np.array([score(number, reference, member.garment) for member in members])
        order = np.lexsort((rng.random(len(members)), -scores))
        hits += target in order[:10]
    return hits / len(chosen)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("garments")
    write(path, pictures=_PICTURES, queries=_QUERIES, seed=3, workers=1)
    return path


def test_layout_is_fashioniqs(folder: Path) -> None:
    names: list[str] = []
    for article in ARTICLES:
        for split, count in _PICTURES.items():
            listed = json.loads((folder / f"image_splits/split.{article}.{split}.json").read_text())
            entries = json.loads((folder / f"captions/cap.{article}.{split}.json").read_text())
            assert (len(listed), len(entries)) == (count, _QUERIES[split])
            for entry in entries:
                assert set(entry) == {"target", "candidate", "captions"}
                assert entry["target"] != entry["candidate"]
                assert len(entry["captions"]) == 2
                assert {entry["target"], entry["candidate"]} <= set(listed)
            names += listed
    assert len(names) == len(set(names)) == len(ARTICLES) * sum(_PICTURES.values())
    assert {path.stem for path in (folder / "images").iterdir()} == set(names)
    with Image.open(folder / "images" / f"{names[0]}.jpg") as picture:
        assert (picture.size, picture.mode) == ((192, 192), "RGB")


def test_labels_cover_every_picture(folder: Path) -> None:
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "article", *ATTRIBUTES, "title", "group"]
    assert {row["id"] for row in rows} == {path.stem for path in (folder / "images").iterdir()}
    for row in rows:
        assert row["id"].startswith(row["article"] + "-")
        assert row["title"].lower().startswith(f"{row['colour']} {row['pattern']}")
        assert all(row[name] in values(row["article"], name) for name in ATTRIBUTES)


def test_pictures_of_one_garment_are_one_product(folder: Path) -> None:
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown: dict[str, set[tuple[str, ...]]] = {}
    for row in rows:
        own = tuple(v for k, v in row.items() if k not in ("id", "group"))
        shown.setdefault(row["group"], set()).add(own)
    assert all(len(garments) == 1 for garments in shown.values())
    assert len(shown) < len(rows)


def test_bytes_do_not_depend_on_workers(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, pictures=_PICTURES, queries=_QUERIES, seed=3, workers=2)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_one_split_alone_is_the_same_split(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, pictures={"val": 14}, queries={"val": 9}, seed=3, workers=1)
    for path in (tmp_path / "images").iterdir():
        assert path.read_bytes() == (folder / "images" / path.name).read_bytes()
    assert not list(tmp_path.rglob("*train*"))


def test_splits_have_no_picture_in_common(folder: Path) -> None:
    pictures = [path.read_bytes() for path in (folder / "images").iterdir()]
    assert len(set(pictures)) == len(pictures)


def test_second_write_does_nothing(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    write(
        folder,
        pictures=_PICTURES,
        queries=_QUERIES,
        seed=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert not calls
    with pytest.raises(FileExistsError, match="expected"):
        write(folder, pictures=_PICTURES, queries=_QUERIES, seed=4)


def test_queries_without_pictures_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train"):
        write(tmp_path, pictures={"val": 14}, queries={"train": 9})
    with pytest.raises(ValueError, match="fewer queries"):
        write(tmp_path, pictures={"val": 3}, queries={"val": 100}, workers=1)


@pytest.mark.parametrize("article", ARTICLES)
def test_two_annotators_determine_the_change(article: str) -> None:
    rng = np.random.default_rng(5)
    members = gallery(article, 200, rng)
    for reference, target in pairs(members, 200, rng):
        old, new = members[reference].garment, members[target].garment
        said = captions(old, new, rng)
        stated = understood(said, old, article)
        composed = {name: stated.get(name, {old[name]}) for name in ATTRIBUTES}
        assert composed == {name: {new[name]} for name in ATTRIBUTES}, (said, old, new)
        assert 1 <= len(old.changes(new)) <= 2
        kept = old.pattern == new.pattern
        assert not kept or old.accent == new.accent


@pytest.mark.parametrize("article", ARTICLES)
def test_neither_picture_nor_words_are_enough(article: str) -> None:
    rng = np.random.default_rng(7)
    members = gallery(article, 400, rng)
    chosen = pairs(members, 200, rng)
    garments = [member.garment for member in members]
    said = [captions(garments[old], garments[new], rng) for old, new in chosen]
    words = [understood(pair, None, article) for pair in said]
    composed = []
    for pair, (old, _) in zip(said, chosen, strict=True):
        kept = {name: {garments[old][name]} for name in ATTRIBUTES}
        composed.append(kept | understood(pair, garments[old], article))

    def agree(stated: Stated, garment: Garment) -> int:
        return sum(garment[name] in wanted for name, wanted in stated.items())

    alone = recall(members, chosen, lambda _, old, new: -len(garments[old].changes(new)))
    spoken = recall(members, chosen, lambda number, _, new: agree(words[number], new))
    both = recall(members, chosen, lambda number, _, new: agree(composed[number], new))
    print(f"{article}: picture {alone:.3f} words {spoken:.3f} both {both:.3f}")
    assert alone < 0.35
    assert spoken < 0.42
    assert both > 0.97


def test_drawing_depends_on_its_arguments_alone() -> None:
    garment = Garment(article="skirt", colour="red", length="knee")
    scene = Scene.sample(np.random.default_rng(1))
    first = draw(garment, scene)
    draw(garment, Scene.sample(np.random.default_rng(2)))
    assert np.array_equal(np.asarray(first), np.asarray(draw(garment, scene)))
    assert draw(garment, scene, size=64).size == (64, 64)


def test_garment_rejects_what_it_cannot_have() -> None:
    with pytest.raises(ValueError, match="expected one of none"):
        Garment(article="skirt", colour="red", length="long", sleeve="long")
    with pytest.raises(ValueError, match="accent"):
        Garment(article="skirt", colour="red", length="long", pattern="dotted")
