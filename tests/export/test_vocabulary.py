"""Check the word pieces that are learnt from captions."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Pieces

from cir_rt.export.train.vocabulary import learn
from cir_rt.text import Tokenizer

TEXTS = ["The same but in RED", "is longer, and more formal", "has dots instead of stripes"] * 5


def test_no_text_is_unknown(tmp_path: Path) -> None:
    size = learn(TEXTS, 400, tmp_path / "deep/tokenizer.json")
    pieces = Pieces.from_file(str(tmp_path / "deep/tokenizer.json"))
    assert size == pieces.get_vocab_size() <= 400
    for text in ("the same but in red", "naïve façade — 红色", "🙂 #1", "zzz"):
        encoded = pieces.encode(text)
        assert pieces.decode(encoded.ids).strip() == text
        assert max(encoded.ids) < size
        assert 0 not in encoded.ids


def test_case_and_width_do_not_matter(tmp_path: Path) -> None:
    learn(TEXTS, 400, tmp_path / "tokenizer.json")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", context=16, pad_id=0)
    rows = tokenizer(["in red", "IN RED", "in ｒｅｄ"])
    assert rows.tolist() == [rows[0].tolist()] * 3


def test_frequent_words_become_one_piece(tmp_path: Path) -> None:
    learn(TEXTS, 400, tmp_path / "tokenizer.json")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", context=16, pad_id=0)
    assert tokenizer(["stripes"]).shape == (1, 1)
    assert tokenizer(["formal red stripes"]).shape == (1, 3)


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        learn(TEXTS, 300, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("size", [280, 300])
def test_the_size_is_a_limit(tmp_path: Path, size: int) -> None:
    assert learn(TEXTS, size, tmp_path / "tokenizer.json") <= size
