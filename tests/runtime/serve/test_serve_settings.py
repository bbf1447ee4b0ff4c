"""Settings, tokens and the rate: what is refused before a port opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from cir_rt.errors import UsageError
from cir_rt.serve.rate import CLIENTS, Rate
from cir_rt.serve.settings import MIB, Batching, Limits, ServeSettings, is_loopback
from cir_rt.serve.tokens import Tokens

SEARCH, BOTH = "search-token-0123456789", "both-token-0123456789"


def settings(**changes: object) -> ServeSettings:
    return ServeSettings(bundle=Path("b"), gallery=Path("g"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert settings(host=host).tokens() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "shop.example", "", "127.1.x"])
def test_a_public_bind_without_a_token_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match=r"others can reach it.*--token-file"):
        settings(host=host)
    assert settings(host=host, token_file=Path("tokens")).host == host


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_half_of_tls_is_refused(half: str) -> None:
    with pytest.raises(UsageError, match="TLS takes both"):
        settings(**{half: Path("x.pem")})


def test_a_certificate_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    with pytest.raises(UsageError, match=r"bad\.pem"):
        settings(tls_cert=bad, tls_key=bad).check_tls()
    bad.write_text("no certificate")
    with pytest.raises(UsageError, match="Expected a PEM certificate"):
        settings(tls_cert=bad, tls_key=bad).check_tls()


@pytest.mark.parametrize(
    "limits",
    [
        {"body_bytes": 0},
        {"pixels": 0},
        {"k": 0},
        {"memory_bytes": MIB},
        {"rate": -1},
        {"body_s": 0},
        {"header_s": 0},
    ],
)
def test_limits_that_nothing_passes_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Limits(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("batching", [{"batch": 0}, {"queue": 0}, {"budget_ms": 0}])
def test_a_queue_that_answers_nothing_is_refused(batching: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Batching(**batching)  # type: ignore[arg-type]


def test_tokens_have_scopes(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who\n\nsearch {SEARCH}\n  search,gallery\t{BOTH}\n")
    tokens = Tokens.read(file)
    grants = [tokens.grant(token) for token in (SEARCH, BOTH)]
    assert [grant and grant.scopes for grant in grants] == [{"search"}, {"search", "gallery"}]
    assert [grant and grant.name for grant in grants] == ["line 3", "line 4"]
    for wrong in ("", SEARCH[:-1], SEARCH + "x", SEARCH.upper(), "größer", "\udcff"):
        assert tokens.grant(wrong) is None


def test_every_token_is_compared_whichever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hmac

    file = tmp_path / "tokens"
    file.write_text("".join(f"search token-number-{n:08}\n" for n in range(7)))
    tokens, compared = Tokens.read(file), []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or compare(a, b))
    for asked in ("token-number-00000000", "token-number-00000006", "another"):
        compared.clear()
        assert (tokens.grant(asked) is None) == (asked == "another")
        assert len(compared) == 7
        assert all(len(digest) == 32 for digest in compared)  # hashes: of one length


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        (SEARCH, "line 1: expected SCOPES TOKEN"),
        (f"search {SEARCH} x", "line 1: expected SCOPES TOKEN"),
        (f"\nfind {SEARCH}", "line 2: scope 'find'. Expected search or gallery"),
        ("search short", "line 1: a token of 5 characters"),
    ],
)
def test_a_token_file_that_says_nothing_clear_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        Tokens.read(file)
    with pytest.raises(UsageError, match="cannot be read"):
        Tokens.read(tmp_path / "missing")


def test_a_token_never_stands_in_an_error(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    for text in (SEARCH, f"search {SEARCH} x", f"search,{SEARCH}"):
        file.write_text(text)
        with pytest.raises(UsageError) as refused:
            Tokens.read(file)
        assert SEARCH not in str(refused.value)


def test_a_client_may_ask_at_its_rate_and_twice_as_much_at_once() -> None:
    now = [0.0]
    rate = Rate(4, clock=lambda: now[0])
    assert [rate.take("a") for _ in range(9)] == [0] * 8 + [1]
    assert rate.take("b") == 0
    for _ in range(30):  # at the rate, for ever
        now[0] += 0.25
        assert rate.take("a") == 0
    assert rate.take("a") > 0
    now[0] += 100
    assert [rate.take("a") for _ in range(9)] == [0] * 8 + [1]


def test_a_slow_rate_says_how_long_to_wait() -> None:
    now = [0.0]
    rate = Rate(0.1, clock=lambda: now[0])
    assert [rate.take("a"), rate.take("a")] == [0, 10]
    now[0] = 9.5
    assert rate.take("a") == 1
    now[0] = 10.0
    assert rate.take("a") == 0


def test_no_rate_is_no_limit_and_clients_are_forgotten() -> None:
    assert {Rate(0).take("a") for _ in range(1000)} == {0}
    rate = Rate(1, clock=lambda: 0.0)
    for n in range(3 * CLIENTS):
        rate.take(f"{n}")
    assert len(rate._buckets) == CLIENTS
