"""What a server is told: where it listens, who may ask, and how much."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cir_rt.errors import UsageError
from cir_rt.serve.kiosk import Kiosk
from cir_rt.serve.tokens import Tokens

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one request, one client and all requests together may take."""

    body_bytes: int = 16 * MIB
    memory_bytes: int = 512 * MIB  # bodies and decoded pictures of all requests in progress
    pixels: int = 40_000_000  # of an uploaded picture; a phone's photo has 12 to 50 million
    text_characters: int = 500
    where_characters: int = 1000
    metadata_characters: int = 16_000
    k: int = 200
    rerank: int = 100
    page: int = 500  # pictures listed at once
    rate: float = 50.0  # requests a second of one client, twice as many at once; 0: no limit
    header_s: float = 10.0  # a connection's next request has begun, or it is closed
    body_s: float = 30.0
    connections: int = 1000

    def __post_init__(self) -> None:
        """Refuse limits that nothing could pass."""
        for name in ("body_bytes", "memory_bytes", "pixels", "k", "page", "connections"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}. Expected at least 1.")
        if self.memory_bytes < self.body_bytes + 3 * self.pixels:
            raise UsageError(
                f"memory_bytes is {self.memory_bytes}. Expected room for one request at least: "
                f"body_bytes and 3 bytes a pixel, {self.body_bytes + 3 * self.pixels} "
                "(--max-memory-mb)."
            )
        if self.rate < 0 or self.header_s <= 0 or self.body_s <= 0:
            raise UsageError("rate is 0 or more, header_s and body_s are above 0.")


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How searches share the engines."""

    batch: int = 16  # searches answered together, at most
    batch_ms: float = 100.0  # what they may take together, but for one alone
    queue: int = 128  # searches accepted and not answered yet, at most
    budget_ms: float = 1000.0  # no search is accepted that would wait longer, none waits longer

    def __post_init__(self) -> None:
        """Refuse what leaves no search to answer."""
        if min(self.batch, self.queue, self.batch_ms, self.budget_ms) < 1:
            raise UsageError(f"{self}: expected at least 1 of each.")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where a server listens and what holds there.

    Raises UsageError for a bind that others can reach without a token, and for half of TLS.
    """

    bundle: Path
    gallery: Path
    device: str = "cpu"
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free one
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)
    kiosk: Kiosk = field(default_factory=Kiosk)

    def __post_init__(self) -> None:
        """Hold the parts against one another."""
        if self.token_file is None and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host}: others can reach it, and no token is asked for. Give "
                "--token-file FILE, or stay on --host 127.0.0.1."
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("TLS takes both, --tls-cert FILE and --tls-key FILE.")

    def tokens(self) -> Tokens | None:
        """Read the token file anew; None where no token is asked for. Raises UsageError."""
        return Tokens.read(self.token_file) if self.token_file else None

    def check_tls(self) -> None:
        """Raise UsageError for a certificate or key that cannot be used."""
        if self.tls_cert is None:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise UsageError(
                f"--tls-cert {self.tls_cert} and --tls-key {self.tls_key}: {error}. Expected a "
                "PEM certificate and its key without a password."
            ) from error


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host; a name other than localhost may be anyone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
