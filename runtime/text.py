"""From a caption to the text encoder's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Pieces

from cir_rt.errors import BundleError, TextError


class Tokenizer:
    """Token ids of captions, padded to the longest of a batch."""

    def __init__(self, path: str | Path, *, context: int, pad_id: int) -> None:
        """Read `tokenizer.json`; `context` is the most tokens that the encoder reads."""
        try:
            self._pieces = Pieces.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"{path}: not a readable tokenizer.json ({error}).") from error
        self._pieces.no_padding()
        self._pieces.no_truncation()
        self.context = context
        self.pad_id = pad_id

    def __call__(self, texts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """Return token ids, (n, longest) int64.

        Raises TextError for an empty text, and for one over `context` tokens unless `truncate`
        (training and evaluation cut; a person is told).
        """
        rows = [
            encoding.ids for encoding in self._pieces.encode_batch([_checked(t) for t in texts])
        ]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.context and not truncate:
                raise TextError(
                    f"text of {len(row)} tokens: '{text[:40]}…'. "
                    f"This model reads at most {self.context}; say it in fewer words."
                )
        if truncate:  # the last token may be the end mark that the encoder pools over
            rows = [r if len(r) <= self.context else [*r[: self.context - 1], r[-1]] for r in rows]
        ids = np.full((len(rows), max(map(len, rows), default=1)), self.pad_id, np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids


def text_lengths(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """Return each row's length up to its last token that is not padding, (n,) int64."""
    keep = ids != pad_id
    return np.where(keep.any(1), ids.shape[1] - np.argmax(keep[:, ::-1], axis=1), 0)


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise TextError(f"text must be a string, got {type(text).__name__}.")
    if not text.strip():
        raise TextError("text is empty. Say what should change, or leave the text out.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"text is not valid Unicode ({error.reason}). Type it again.") from error
    return text
