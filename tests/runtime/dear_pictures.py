"""Pictures whose few bytes ask for much: pieces, pages, strips and scans without end."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SMALL = 200_000  # bytes of what must be refused; as many of it as are read come to minutes
TAGS = (  # width, height, bits, compression, photometric, rows a strip: a grey picture
    *((256, 4), (257, 4), (258, 8), (259, 1), (262, 1)),
    *((278, 1), (277, 1)),
)


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def noise(height: int = 30, width: int = 40) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def directory(*tags: tuple[int, int, int, int], following: int = 0, order: str = "<") -> bytes:
    entries = b"".join(struct.pack(order + "HHII", *tag) for tag in sorted(tags))
    return struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following)


def tiff(strips: int, order: str = "<", big: bool = False) -> bytes:
    """Return a TIFF of a strip a row, each a row of four grey pixels that lies at 16."""
    if big:
        tags = [(tag, 4, 1, value) for tag, value in TAGS if tag != 257]
        tags += [(257, 4, 1, strips), (273, 4, strips, 300), (279, 4, strips, 300 + 4 * strips)]
        entries = b"".join(struct.pack(order + "HHQQ", *tag) for tag in sorted(tags))
        head = struct.pack(order + "2sHHHQ", b"", 43, 8, 0, 20)[2:]
        table = struct.pack(order + "Q", len(tags)) + entries + bytes(8)
        body = head + bytes(4) + table  # the directory at 20, behind the row at 16
    else:
        tags = [(tag, 4, 1, value) for tag, value in TAGS if tag != 257]
        tags += [(257, 4, 1, strips), (273, 4, strips, 300), (279, 4, strips, 300 + 4 * strips)]
        head = struct.pack(order + "HI", 42, 20)
        body = head + bytes(12) + directory(*tags, order=order)
    whole = (b"II" if order == "<" else b"MM") + body
    offsets = struct.pack(order + "I", 16) * strips + struct.pack(order + "I", 4) * strips
    return whole.ljust(300, b"\0") + offsets


def pages(count: int) -> bytes:
    tags = [(tag, 3, 1, value) for tag, value in (*TAGS, (273, 8), (279, 4))]
    size = len(directory(*tags))
    places = [16 + size * (n + 1) for n in range(count - 1)] + [0]
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + b"".join(
        directory(*tags, following=place) for place in places
    )  # fmt: skip


def many_pieces() -> dict[str, bytes]:
    jpeg, count = saved(noise(), "JPEG"), SMALL
    png = saved(noise(), "PNG")
    screen = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return {
        "JPEG, fill": jpeg[:2] + b"\xff" * count + jpeg[2:],
        "JPEG, empty segments": jpeg[:2] + b"\xff\xed\x00\x02" * (count // 4) + jpeg[2:],
        "JPEG, empty comments": jpeg[:2] + b"\xff\xfe\x00\x02" * (count // 4) + jpeg[2:],
        "PNG, empty chunks": png[:33] + chunk(b"teSt") * (count // 12) + png[33:],
        "PNG, texts": png[:33] + chunk(b"tEXt", b"a\0b") * (count // 15) + png[33:],
        "PNG, empty data": png[:33] + chunk(b"IDAT") * (count // 12) + png[33:],
        "GIF, comments": screen + b"!\xfe\x01a\0" * (count // 5) + frame + b";",
        "GIF, a comment in bytes": screen + b"!\xfe" + b"\x01a" * (count // 2) + b"\0" + frame,
    }


def scanned(scans: int, side: int = 40) -> bytes:
    """Return a progressive JPEG whose last scan stands there again and again."""
    whole = saved(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    usual = whole.count(b"\xff\xda")
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + (scans - usual) * last + whole[-2:]
