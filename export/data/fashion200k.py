"""Fashion200K: described product photos; a query replaces one word of the description.

Layout: labels/{category}_{split}_detect_all.txt (file, detection score and description, by tabs),
test_queries.txt (reference and target file a line), images/ holding the published women/.
Sources: github.com/xthan/fashion-200k for the files, github.com/google/tirg, datasets.py and
test_retrieval.py, for the queries: "replace a with b", where every picture of the wanted
description is a right answer and the reference is removed.
NOTE: not verified against the published files; written from both descriptions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import MIXED, Dataset, Protocol, Query, Split

PROTOCOL = Protocol(
    name="fashion200k",
    gallery="every picture of the split's label files",
    keep_reference=False,
    captions='"replace a with b"',
    ks=(1, 10, 50),
    mean_of=("R@1", "R@10", "R@50"),
    verified=False,
)
SEED = 0  # of the training queries: TIRG draws new ones all the time


def read(folder: Path) -> Dataset:
    """Read both splits; training has one query a picture that differs from others by one word."""
    texts = {name: _descriptions(folder, name) for name in ("train", "test")}
    queries = {
        "train": _exchanges(texts["train"]),
        "test": _queries(folder / "test_queries.txt", texts["test"]),
    }
    splits = {}
    for name, own in queries.items():
        split = Split(
            name=name, protocol=PROTOCOL, queries=own, galleries={MIXED: tuple(texts[name])}
        )
        splits[name] = {PROTOCOL.name: split}
    described = {**texts["test"], **texts["train"]}
    return Dataset(
        name="fashion200k",
        folder=folder,
        splits=splits,
        labels={picture: (text,) for picture, text in described.items()},
        products={picture: picture.rsplit("/", 1)[0] for picture in described},
    )


def replacement(before: str, after: str) -> str:
    """Return the query from one description to another: "replace red with blue".

    It names the first word of each that the other lacks, or the last one where it lacks none.
    """
    old, new = before.split(), after.split()
    gone = next((word for word in old if word not in new), old[-1])
    come = next((word for word in new if word not in old), new[-1])
    return f"replace {gone} with {come}"


def _descriptions(folder: Path, split: str) -> dict[str, str]:
    """Return {picture: description} of the split's label files."""
    found = {}
    for path in sorted((folder / "labels").glob(f"*_{split}_detect_all.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            parts = line.split("\t")
            if len(parts) != 3 or not parts[2].strip():
                raise DataError(
                    f"{path}:{number}: expected file, score and description, got {line!r}."
                )
            found[_id(parts[0])] = " ".join(parts[2].split())
    if not found:
        raise DataError(f"{folder}/labels: no *_{split}_detect_all.txt with a line in it.")
    return found


def _queries(path: Path, texts: Mapping[str, str]) -> tuple[Query, ...]:
    if not path.exists():
        raise DataError(f"{path}: not there. Fetch it with the instructions of google/tirg.")
    shown, queries = _pictures(texts), []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        pair = [_id(file) for file in line.split()]
        if len(pair) != 2 or not all(picture in texts for picture in pair):
            raise DataError(f"{path}:{number}: expected two files of the labels, got {line!r}.")
        queries.append(_query(pair[0], texts[pair[1]], texts, shown))
    return tuple(queries)


def _exchanges(texts: Mapping[str, str]) -> tuple[Query, ...]:
    """Ask each picture for a description that differs by one word, drawn by lot.

    TIRG takes words out wherever their letters stand; here they are whole words.
    """
    shown = _pictures(texts)
    siblings: dict[tuple[str, ...], list[str]] = {}
    for text in shown:
        for shorter in _shorter(text):
            siblings.setdefault(shorter, []).append(text)
    lot, queries = random.Random(SEED), []
    for picture, text in texts.items():
        families = [siblings[shorter] for shorter in _shorter(text)]
        families = [family for family in families if len(family) > 1]
        if families:
            wanted = _other(lot.choice(families), text, lot)
            queries.append(_query(picture, wanted, texts, shown))
    return tuple(queries)


def _other(family: list[str], text: str, lot: random.Random) -> str:
    """Draw from a family of two or more, some thousands at most, what is not this description."""
    while (drawn := lot.choice(family)) == text:
        pass
    return drawn


def _query(
    reference: str, wanted: str, texts: Mapping[str, str], shown: Mapping[str, tuple[str, ...]]
) -> Query:
    caption = replacement(texts[reference], wanted)
    return Query(reference=reference, captions=(caption,), targets=shown[wanted], group=MIXED)


def _pictures(texts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return {description: the pictures that it describes}."""
    shown: dict[str, list[str]] = {}
    for picture, text in texts.items():
        shown.setdefault(text, []).append(picture)
    return {text: tuple(pictures) for text, pictures in shown.items()}


def _shorter(text: str) -> list[tuple[str, ...]]:
    """Return what is left of a description without one of its words, each once."""
    words = text.split()
    return list(dict.fromkeys((*words[:k], *words[k + 1 :]) for k in range(len(words))))


def _id(file: str) -> str:
    return file.rsplit(".", 1)[0]
