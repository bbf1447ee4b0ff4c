"""Captions to token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Pieces
from tokenizers import models, pre_tokenizers

from cir_rt.errors import BundleError, TextError
from cir_rt.text import Tokenizer

WORDS = ["[PAD]", "[UNK]", "the", "same", "but", "in", "red", "green"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "tokenizer.json"
    vocabulary = {word: k for k, word in enumerate(WORDS)}
    tokenizer = Pieces(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return path


def test_ids_are_padded_to_the_longest(pieces: Path) -> None:
    ids = Tokenizer(pieces, context=8, pad_id=0)(["red", "the same but in red", "blue green"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [[6, 0, 0, 0, 0], [2, 3, 4, 5, 6], [1, 7, 0, 0, 0]]
    assert Tokenizer(pieces, context=8, pad_id=9)(["red", "in red"]).tolist() == [[6, 9], [5, 6]]


def test_batch_is_single_but_for_padding(pieces: Path) -> None:
    tokenizer = Tokenizer(pieces, context=8, pad_id=0)
    texts = ["red", "in green", "the same but in red"]
    for row, text in zip(tokenizer(texts), texts, strict=True):
        alone = tokenizer([text])[0]
        assert row[: len(alone)].tolist() == alone.tolist()
        assert not row[len(alone) :].any()


def test_no_texts(pieces: Path) -> None:
    assert Tokenizer(pieces, context=8, pad_id=0)([]).shape[0] == 0


def test_over_long_text_is_refused_or_cut_by_name(pieces: Path) -> None:
    tokenizer = Tokenizer(pieces, context=4, pad_id=0)
    assert tokenizer(["the same in red"]).shape == (1, 4)
    with pytest.raises(TextError, match=r"5 tokens.*at most 4"):
        tokenizer(["the same but in red"])
    with pytest.raises(TextError):
        tokenizer(["red", "the same but in red"])
    cut = tokenizer(["the same but in red", "green"], truncate=True)
    assert cut.tolist() == [[2, 3, 4, 6], [7, 0, 0, 0]]  # the last token stays
    one = Tokenizer(pieces, context=1, pad_id=0)
    assert one(["the same but in red"], truncate=True).tolist() == [[6]]


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_empty_text_is_refused(pieces: Path, text: str) -> None:
    for truncate in (False, True):
        with pytest.raises(TextError, match="empty"):
            Tokenizer(pieces, context=8, pad_id=0)(["red", text], truncate=truncate)


@pytest.mark.parametrize("text", [None, 5, b"red"])
def test_what_is_no_text_is_refused(pieces: Path, text: object) -> None:
    with pytest.raises(TextError, match=type(text).__name__):
        Tokenizer(pieces, context=8, pad_id=0)([text])  # type: ignore[list-item]


def test_half_characters_are_refused(pieces: Path) -> None:
    with pytest.raises(TextError):
        Tokenizer(pieces, context=8, pad_id=0)(["red \ud800"])


def test_the_file_does_not_say_how_to_pad_or_cut(pieces: Path, tmp_path: Path) -> None:
    told = Pieces.from_file(str(pieces))
    told.enable_padding(length=7)
    told.enable_truncation(2)
    told.save(str(tmp_path / "told.json"))
    ids = Tokenizer(tmp_path / "told.json", context=8, pad_id=0)(["the same in"])
    assert ids.tolist() == [[2, 3, 5]]


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer(path, context=8, pad_id=0)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_is_served_or_refused(bundle: Path, text: str) -> None:
    tokenizer = Tokenizer(bundle / "tokenizer.json", context=24, pad_id=0)
    try:
        ids = tokenizer([text])
    except TextError:
        return
    assert ids.shape[0] == 1
    assert 1 <= ids.shape[1] <= 24
    assert (ids != 0).all()
