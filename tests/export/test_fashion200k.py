"""Read Fashion200K's layout, on made files: the published ones have not been at hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cir_rt.errors import DataError
from cir_rt.export.data.fashion200k import replacement
from cir_rt.export.data.formats import open_dataset


def file(product: int, view: int = 0) -> str:
    return f"women/dresses/casual/{product}/{product}_{view}.jpeg"


def picture(product: int, view: int = 0) -> str:
    return file(product, view).removesuffix(".jpeg")


def label(product: int, text: str, view: int = 0) -> str:
    return f"{file(product, view)}\t-1.5\t{text}"


def made(folder: Path, train: list[str], test: list[str], queries: str) -> Path:
    (folder / "labels").mkdir()
    (folder / "labels/dress_train_detect_all.txt").write_text("\n".join(train) + "\n")
    (folder / "labels/dress_test_detect_all.txt").write_text("\n".join(test) + "\n")
    (folder / "test_queries.txt").write_text(queries)
    return folder


TRAIN = [
    label(1, "red long dress"),
    label(1, "red long dress", view=1),
    label(2, "blue long dress"),
    label(3, "plain skirt"),
]
TEST = [
    label(11, "green silk top"),
    label(12, "white silk top"),
    label(13, " white  silk top"),
    label(14, "black jeans"),
]


def test_test_queries_replace_one_word(tmp_path: Path) -> None:
    dataset = open_dataset(made(tmp_path, TRAIN, TEST, f"{file(11)} {file(12)}\n"))
    split = dataset.split("test")
    (query,) = split.queries
    assert (dataset.name, query.reference) == ("fashion200k", picture(11))
    assert query.text == "replace green with white"
    # every picture of the wanted description is a right answer
    assert query.targets == (picture(12), picture(13))
    assert split.galleries["all"] == tuple(picture(k) for k in (11, 12, 13, 14))
    assert split.protocol.keep_reference is False
    assert "not verified" in str(split.protocol)


def test_training_asks_for_descriptions_one_word_away(tmp_path: Path) -> None:
    dataset = open_dataset(made(tmp_path, TRAIN, TEST, f"{file(11)} {file(12)}\n"))
    split = dataset.split("train")
    assert [(q.reference, q.text, q.targets) for q in split.queries] == [
        (picture(1), "replace red with blue", (picture(2),)),
        (picture(1, 1), "replace red with blue", (picture(2),)),
        (picture(2), "replace blue with red", (picture(1), picture(1, 1))),
    ]
    assert dataset.unlabelled("train") == (picture(3),)
    assert dataset.labels[picture(3)] == ("plain skirt",)
    assert dataset.products[picture(1)] == dataset.products[picture(1, 1)] != picture(2)


def test_training_queries_against_all_pairs(tmp_path: Path) -> None:
    """Each query leads one word away, to all pictures of it, and none is missing."""
    rng = random.Random(3)
    words = [("red", "blue", "grey"), ("long", "short"), ("silk", "wool", "lace"), ("dress", "top")]
    texts = [" ".join(rng.choice(kind) for kind in rng.sample(words, 3)) for _ in range(30)]
    texts += ["striped jersey", "striped cotton jersey", "one two three"]
    lines = [label(k, text) for k, text in enumerate(texts)]
    folder = made(tmp_path, lines, TEST, f"{file(11)} {file(12)}\n")
    split = open_dataset(folder).split("train")
    assert split.queries == open_dataset(folder).split("train").queries  # the lot is fixed
    described = {picture(k): text for k, text in enumerate(texts)}

    def near(a: str, b: str) -> bool:
        """Whether taking one word out of both, anywhere, leaves the same."""
        one, two = a.split(), b.split()
        return a != b and any(
            one[:i] + one[i + 1 :] == two[:j] + two[j + 1 :]
            for i in range(len(one))
            for j in range(len(two))
        )

    for query in split.queries:
        (wanted,) = {described[target] for target in query.targets}
        assert near(described[query.reference], wanted)
        assert set(query.targets) == {i for i, text in described.items() if text == wanted}
        assert query.text == replacement(described[query.reference], wanted)
    asked = [query.reference for query in split.queries]
    assert asked == [i for i, a in described.items() if any(near(a, b) for b in texts)]
    assert len(texts) - len(asked) >= 3


def test_a_replacement_names_the_first_words_that_differ() -> None:
    assert replacement("red long dress", "red short gown") == "replace long with short"
    assert replacement("red dress", "red dress long") == "replace dress with long"


def test_what_is_missing_or_malformed_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path, TRAIN, TEST, f"{file(11)} {file(99)}\n")
    with pytest.raises(DataError, match=r"test_queries\.txt:1: expected two files of the labels"):
        open_dataset(folder)
    (folder / "test_queries.txt").unlink()
    with pytest.raises(DataError, match=r"test_queries\.txt: not there"):
        open_dataset(folder)
    (folder / "labels/dress_test_detect_all.txt").write_text(label(11, "x") + "\nonly a file\n")
    with pytest.raises(DataError, match=r"detect_all\.txt:2: expected file, score and desc"):
        open_dataset(folder)
    (folder / "labels/dress_test_detect_all.txt").unlink()
    with pytest.raises(DataError, match=r"no \*_test_detect_all\.txt"):
        open_dataset(folder)
