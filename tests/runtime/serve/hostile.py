"""What an attacker sends: pictures that are none or cost much, bodies and messages that lie."""

from __future__ import annotations

import base64
import gzip
import json
import random
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from dear_pictures import chunk, many_pieces, noise, pages, saved, scanned, tiff
from PIL import Image

KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {},
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "TIFF": {},
    "GIF": {},
}
CUTS = 16  # of each kind
JSON, FORM = b"Content-Type: application/json", b"Content-Type: multipart/form-data; boundary=part"
PATHS = (b"/v1/search", b"/v1/items")

Named = dict[str, bytes]


def pictures() -> dict[str, Named]:
    """Return by family and name what is sent as a picture, and is to be refused as one."""
    return {
        "no picture": nothing_of_the_kind(),
        "two things at once": polyglots(),
        "claims": claims(),
        "dear": dear(),
        "cut": cut(),
        "damaged": damaged(),
    }


def messages() -> dict[str, Named]:
    """Return by family and name whole HTTP messages, each to be refused with a 4xx."""
    return {
        "JSON": {name: sent(body, JSON) for name, body in json_bodies().items()},
        "forms": {
            name: sent(body, FORM, path=path)
            for path in PATHS
            for name, body in form_bodies(path).items()
        },
        "items": {
            name: sent(form(fields), FORM, path=b"/v1/items") for name, fields in items().items()
        },
        "HTTP": http(),
    }


def nothing_of_the_kind() -> Named:
    frame = Image.new("RGB", (40, 30))
    other = {kind: saved(noise(), kind) for kind in ("PPM", "ICO", "TGA", "PCX", "EPS", "SGI")}
    return {
        **other,
        "nothing": b"",
        "text": b"hello",
        "html": b"<html><script>alert(1)</script></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "entities": b'<!DOCTYPE a [<!ENTITY b "bb">]><svg>' + 999 * b"&b;" + b"</svg>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "pdf": b"%PDF-1.7\n1 0 obj <<>> endobj",
        "zip": b"PK\x03\x04" + bytes(60),
        "gzip bomb": gzip.compress(bytes(10**7)),
        "program": b"\x7fELF" + bytes(200),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "psd": b"8BPS\x00\x01" + bytes(100),
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "jpeg 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
        "avif": b"\x00\x00\x00\x1cftypavif" + bytes(100),
        "animated GIF": saved(noise(), "GIF", save_all=True, append_images=[frame]),
        "animated PNG": saved(noise(), "PNG", save_all=True, append_images=[frame]),
        "animated WebP": saved(noise(), "WEBP", save_all=True, append_images=[frame]),
        "pages": saved(noise(), "TIFF", save_all=True, append_images=[noise()]),
        "float": saved(Image.new("F", (8, 8)), "TIFF"),
        "32 bits": saved(Image.new("I", (8, 8)), "TIFF"),
    }


def polyglots() -> Named:
    """Return pictures behind the head of something else, or of another picture."""
    fronts = {
        "html": b"<html><body>",
        "pdf": b"%PDF-1.7\n",
        "zip": b"PK\x03\x04",
        "script": b"#!/bin/sh\nid\n",
        "gif and script": b"GIF89a/*",
        "tiff": b"II*\0\x08\0\0\0",
        "bmp": b"BM" + bytes(12),
        "webp": b"RIFF\xff\0\0\0WEBPVP8 ",
    }
    return {
        f"{front}, then {kind}": head + saved(noise(), kind, **settings)
        for front, head in fronts.items()
        for kind, settings in KINDS.items()
    }


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """Return a PNG whose header says more than its few bytes hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def claims() -> Named:
    """Return headers that claim many pixels, or none."""
    found = {"bits": saved(Image.new("1", (20_000, 20_000)), "PNG"), "rows": png(0, 0, bytes(999))}
    for width in (1, 6000, 30_001, 65_535, 2**31 - 1):
        for height in (1, 30_001, 65_535, 2**31 - 1):
            if (width, height) != (1, 1):
                found[f"png {width} x {height}"] = png(width, height)
    for side in (30_001, 65_535):
        found[f"gif {side}"] = b"GIF89a" + struct.pack("<HH", side, side) + bytes(20)
        bmp = bytearray(saved(noise(), "BMP"))
        struct.pack_into("<ii", bmp, 18, side, side)
        found[f"bmp {side}"] = bytes(bmp)
        jpeg = bytearray(saved(noise(), "JPEG"))
        struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, side, side)
        found[f"jpeg {side}"] = bytes(jpeg)
    canvas = struct.pack("<I", 2**24 - 1)[:3] * 2
    extended = b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + canvas + bytes(9)
    found["webp"] = b"RIFF" + struct.pack("<I", len(extended)) + extended
    return found


def dear() -> Named:
    """Return small files that take minutes to decode, and gigabytes."""
    many = bytearray(tiff(7))
    struct.pack_into("<I", many, many.index(struct.pack("<HH", 273, 4)) + 4, 2**31)
    return {
        **many_pieces(),
        "scans": scanned(4000, side=2000),
        "scans of few pixels": scanned(101),
        "pages": pages(9999),
        "strips": tiff(100_001),
        "strips that are not there": bytes(many),
    }


def cut() -> Named:
    rng, found = random.Random(0), {}
    for kind, settings in KINDS.items():
        whole = saved(noise(), kind, **settings)
        for at in rng.sample(range(2, int(0.8 * len(whole))), CUTS):
            found[f"{kind} cut at {at}"] = whole[:at]
        found[f"{kind} without a head"] = whole[2:]
    return found


def damaged() -> Named:
    """Return PNGs of which one byte of the header's chunk is another."""
    whole = saved(noise(), "PNG")
    return {
        f"byte {at}": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(8, 33)
    }


def json_bodies() -> Named:
    """Return searches in JSON that ask what cannot be answered, or are none."""
    fields: dict[str, Any] = {
        "image": ["!!!", "=", "a", "data:image/png;base64,AAAA", "é", "A A A", None, 7, ["AA"], {}],
        "text": ["", 501 * "a", 7, None, ["red"], {"a": "b"}, "a\ud800"],
        "id": ["", "../../etc/passwd", "/etc/passwd", "nobody\0", 9999 * "a", None, "a\udfff"],
        "k": [0, -1, 201, 1.5, "10", True, None, 1e300, [10]],
        "weight": [-0.1, 1.1, "1", None],
        "where": ["", "1=1; DROP TABLE items", "id like '%' --", "(select 1)", 999 * "(", "id ="],
        "mode": ["", "evil", 1],
        "deadline_ms": [0, -5, 1e9, "soon"],
        "__proto__": [{}],
    }
    found = {
        f"{name} {n}": json.dumps({"text": "red", name: value}).encode()
        for name, values in fields.items()
        for n, value in enumerate(values)
    }
    whole = base64.b64encode(saved(noise(), "PNG"))
    return found | {
        "a cut picture": b'{"image": "%s"}' % whole[:400],
        "a picture in nonsense": b'{"image": "%s"}' % whole.replace(b"A", b"*"),
        "deep lists": b'{"text": ' + 100_000 * b"[",
        "deep objects": 49_000 * b'{"a":',
        "many values": b'{"text": [' + 60_000 * b"1," + b"1]}",
        "many digits": b'{"text": "red", "k": ' + 9999 * b"9" + b"}",
        "no number": b'{"text": "red", "k": NaN}',
        "without end": b'{"text": "red", "weight": Infinity}',
        "no UTF-8": b'{"text": "\xff\xfe"}',
        "a list": b"[]",
        "a number": b"7",
        "nothing": b"",
        "nothing asked": b"{}",
        "more behind": b'{"text": "red"} {"text": "red"}',
        "XML": b"<?xml version='1.0'?><a/>",
    }


def form(fields: Mapping[bytes, bytes]) -> bytes:
    """Return a form; what is asked by a name with `filename` is a file."""
    return b"".join(part(name, value) for name, value in fields.items()) + b"--part--\r\n"


def part(name: bytes, value: bytes, *headers: bytes) -> bytes:
    head = b"\r\n".join([b'Content-Disposition: form-data; name="' + name + b'"', *headers])
    return b"--part\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


FILE = b'image"; filename="x.jpg'


def form_bodies(path: bytes) -> Named:
    """Return forms that are none, or that no call asks for."""
    end, picture = b"--part--\r\n", saved(noise(), "PNG")
    inner = b"Content-Type: multipart/mixed; boundary=inner"
    bodies = {
        "nothing": b"",
        "no form": b"hello",
        "another boundary": b"--other\r\n\r\n--other--\r\n",
        "no names": b"--part\r\n\r\nvalue\r\n" + end,
        "many fields": b"".join(part(b"f%d" % n, b"1") for n in range(33)) + end,
        "a great many fields": b"".join(part(b"f%d" % n, b"1") for n in range(9999)) + end,
        "two files": 2 * part(FILE, picture) + end,
        "a file of no field": part(b'other"; filename="x', picture) + end,
        "words in a file": part(b'text"; filename="x', b"red") + end,
        "a picture without a name": part(b"image", picture) + end,
        "a form in a form": part(FILE, b"--inner\r\n\r\n" + picture + b"\r\n--inner--", inner)
        + end,
        "a long name": part(99_999 * b"a", b"1") + end,
        "a long header": part(b"text", b"red", b"X: " + 99_999 * b"a") + end,
        "many headers": part(b"text", b"red", *(b"X-%d: a" % n for n in range(9999))) + end,
        "a name of dots": part(b"../../text", b"red") + end,
        "text twice": 2 * part(b"text", b"red") + end,
    }
    return {f"{name} to {path.decode()}": body for name, body in bodies.items()}


def items() -> dict[str, dict[bytes, bytes]]:
    """Return the fields of pictures to add that cannot be added."""
    picture = saved(noise(), "PNG")
    ids = (b"", b".", b"..", b"a\0b", b"a\nb", b"\x7f", 9999 * b"a")
    metadata = (b"", b"[]", b"1", b"{", b'{"a": NaN}', b'{"a": 1e999}', b"{" * 9999)
    return {
        **{f"id {name[:9]!r}": {b"id": name, FILE: picture} for name in ids},
        **{
            f"metadata {said[:19]!r}": {b"id": b"hostile", b"metadata": said, FILE: picture}
            for said in (*metadata, b'{"a": "' + 20_000 * b"a" + b'"}')
        },
        "no id": {FILE: picture},
        "no picture": {b"id": b"hostile"},
    }


def sent(body: bytes, *headers: bytes, path: bytes = b"/v1/search") -> bytes:
    return post(b"Content-Length: %d" % len(body), *headers, path=path) + body


def post(*headers: bytes, path: bytes = b"/v1/search") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"", b""])


def http() -> Named:
    """Return messages that are hostile before their body is looked at."""
    return dict(_http(b"Transfer-Encoding: chunked", b'{"text": "red"}'))


def _http(chunked: bytes, ask: bytes) -> Iterator[tuple[str, bytes]]:
    yield "a long header", post(b"X-Long: " + 3_000_000 * b"a")
    yield "many headers", post(*(b"X-%d: a" % n for n in range(100_000)))
    yield "a long path", post(JSON, path=b"/" + 3_000_000 * b"a")
    yield "another media type", sent(ask, b"Content-Type: text/plain")
    yield "no media type", sent(ask)
    yield "a form without a boundary", sent(ask, b"Content-Type: multipart/form-data")
    yield "a compressed body", sent(gzip.compress(ask), JSON, b"Content-Encoding: gzip")
    for length in (b"999999999999", b"-1", b"ten", b"+15", b"0x0f", b"1 5", 5000 * b"9", b"15, 16"):
        yield f"a length of {length[:19]!r}", post(JSON, b"Content-Length: " + length) + ask
    yield "two lengths", post(JSON, b"Content-Length: 2", b"Content-Length: 15") + ask
    yield "a length too short", post(JSON, b"Content-Length: 7") + ask
    for size in (b"zz", b"-1", b"", 99 * b"f", b"0x5"):
        yield f"a chunk of {size[:9]!r}", post(JSON, chunked) + size + b"\r\n" + ask + b"\r\n"
    yield "a chunk longer than said", post(JSON, chunked) + b"2\r\n" + ask + b"\r\n0\r\n\r\n"
    yield "chunked in gzip", post(JSON, b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"
    yield "unknown in transfer", post(JSON, b"Transfer-Encoding: evil") + ask
    yield "a space in a name", sent(ask, JSON, b"X Y: a")
    yield "a folded header", sent(ask, JSON, b"X: a\r\n b\x00")
    yield "a header of zeros", sent(ask, JSON, b"X: \x00")
    yield "another host", sent(ask, JSON).replace(b"localhost", b"evil.example")
    yield "another origin", sent(ask, JSON, b"Origin: https://evil.example")
    yield "two hosts", sent(ask, JSON, b"Host: evil.example")
    yield "no host", b"GET / HTTP/1.1\r\n\r\n"
    yield "another version", b"GET / HTTP/9.9\r\n\r\n"
    yield "no version", b"GET /\r\n\r\n"
    yield "TLS", b"\x16\x03\x01\x02\x00\x01\x00" + bytes(99)
    yield "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "a path up", b"GET /page/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "an encoded path up", b"GET /page/%2e%2e%2f%00 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "another's address", b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    yield "a made-up method", b"EVIL /v1/search HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "a tunnel", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "a websocket", post(JSON, b"Upgrade: websocket", b"Connection: upgrade")
