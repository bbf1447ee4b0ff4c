"""Bearer tokens: who may search, who may change the gallery.

# scopes        token
search          4nkVq0o6tKcRZl2e7Yw1Sg
search,gallery  Uq3mB9d0xJrT5fWzN8yHaL
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from cir_rt.errors import UsageError

SCOPES = ("search", "gallery")
LEAST_CHARACTERS = 16  # of a token: what is shorter can be guessed

_NEW = 'python3 -c "import secrets; print(secrets.token_urlsafe())"'


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What one token allows; `name` tells tokens apart and gives none away."""

    name: str
    scopes: frozenset[str]


class Tokens:
    """The tokens of a file; kept as hashes."""

    def __init__(self, grants: dict[bytes, Grant]) -> None:
        """Take what each token's SHA-256 allows; `read` makes them from a file."""
        self._grants = grants

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read a line of scopes and a token each. Raises UsageError that names the line."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file {path}: cannot be read ({error}).") from error
        grants: dict[bytes, Grant] = {}
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2:
                raise UsageError(f"--token-file {path}, line {number}: expected SCOPES TOKEN.")
            scopes = frozenset(words[0].split(","))
            if unknown := sorted(scopes.difference(SCOPES)):
                raise UsageError(
                    f"--token-file {path}, line {number}: scope '{unknown[0]}'. Expected "
                    f"{' or '.join(SCOPES)}, or both with a comma between."
                )
            if len(words[1]) < LEAST_CHARACTERS:
                raise UsageError(
                    f"--token-file {path}, line {number}: a token of {len(words[1])} characters. "
                    f"Expected {LEAST_CHARACTERS} or more:  {_NEW}"
                )
            grants[_hash(words[1])] = Grant(name=f"line {number}", scopes=scopes)
        if not grants:
            raise UsageError(f"--token-file {path}: holds no token. Make one:  {_NEW}")
        return cls(grants)

    def grant(self, token: str) -> Grant | None:
        """Return what a token allows, None for one that is not known; in constant time."""
        asked, found = _hash(token), None
        for known, grant in self._grants.items():  # all of them, whichever it is
            if hmac.compare_digest(known, asked):
                found = grant
        return found


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
