"""What a gallery is at one generation."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, NamedTuple

from cir_rt.errors import UsageError
from cir_rt.gallery.rowformat import RowFormat

NEVER = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class TokenFormat:
    """What a gallery's candidate tokens are."""

    fingerprint: str  # the model that made them
    count: int  # tokens of a picture
    width: int  # numbers in a token
    precision: str = "int8"

    def __post_init__(self) -> None:
        """Refuse what no model gives."""
        if not self.fingerprint or self.count < 1 or self.width < 1:
            raise UsageError(f"{self}: expected a model's fingerprint, 1 token and 1 number.")
        _ = self.rows  # a precision that is not known

    @property
    def rows(self) -> RowFormat:
        """How one picture's tokens are stored."""
        return RowFormat(precision=self.precision, shape=(self.count, self.width))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a gallery is at one generation; also the view that a reader stands at."""

    fingerprint: str
    dim: int
    precision: str = "fp32"  # of the vectors
    segment: int = 0  # number of the segments' files; another one means that rows were renumbered
    rows: int = 0  # dead ones included
    generation: int = 0
    next_key: int = 0  # keys are given once and never again
    token_rows: int = 0
    token_fingerprint: str | None = None
    token_count: int | None = None
    token_width: int | None = None
    token_precision: str | None = None
    quota_bytes: int | None = None

    @property
    def view(self) -> tuple[int, int]:
        """What decides which rows are visible: (generation, rows)."""
        return self.generation, self.rows

    @property
    def vectors(self) -> RowFormat:
        """How a vector is stored."""
        return RowFormat(precision=self.precision, shape=(self.dim,))

    @property
    def tokens(self) -> TokenFormat | None:
        """What the candidate tokens are, None where none were ever added."""
        if self.token_fingerprint is None:
            return None
        assert self.token_count
        assert self.token_width
        assert self.token_precision
        return TokenFormat(
            fingerprint=self.token_fingerprint,
            count=self.token_count,
            width=self.token_width,
            precision=self.token_precision,
        )

    def with_tokens(self, tokens: TokenFormat) -> Facts:
        """Return the facts of a gallery that keeps such tokens."""
        return replace(
            self,
            token_fingerprint=tokens.fingerprint,
            token_count=tokens.count,
            token_width=tokens.width,
            token_precision=tokens.precision,
        )

    @property
    def crc32(self) -> int:
        """The checksum that stands beside them."""
        return row_crc32(*astuple(self))

    @classmethod
    def of_values(cls, values: Sequence[Any], crc32: object) -> Facts | None:
        """Return the facts of these values in order, None where they are not what was committed."""
        names = (field.name for field in fields(cls))
        facts = cls(**dict(zip(names, values, strict=True)))
        return facts if facts.crc32 == crc32 else None


class Record(NamedTuple):
    """One picture to store; metadata is JSON text."""

    id: str
    source_hash: str
    metadata: str
    thumbnail: bytes


class Row(NamedTuple):
    """One row of the catalogue: a picture, alive or dead, and the checksums of all that it has."""

    key: int  # names the picture's thumbnail and tokens, and outlives compaction
    row: int  # the place of its vector
    id: str
    source_hash: str
    metadata: str
    died: int  # the generation in which it was updated or deleted
    vector_crc32: int
    thumbnail_crc32: int
    crc32: int  # of all of the above

    @property
    def whole(self) -> bool:
        """Tell whether the row is what was committed."""
        return self.crc32 == row_crc32(*self[:-1])


def row_crc32(*values: object) -> int:
    """Return the checksum of a row's values; damage may have turned text into other types."""
    return zlib.crc32("\0".join(map(str, values)).encode("utf-8", "surrogatepass"))
