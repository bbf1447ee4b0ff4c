"""Small galleries for tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cir_rt.gallery import Gallery, Item

DIM = 8
MODEL = "0123456789abcdef" * 4


def jpeg(seed: int, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (seed * 37 % 256, seed % 256, 99)).save(buffer, "JPEG")
    return buffer.getvalue()


def vector(seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return found / np.linalg.norm(found)


def item(item_id: str, seed: int = 0, **changes: Any) -> Item:
    fields: dict[str, Any] = {
        "vector": vector(seed),
        "thumbnail": jpeg(seed),
        "source_hash": f"{seed:064x}",
    }
    return Item(id=item_id, **{**fields, **changes})


def batch(*seeds: int) -> list[Item]:
    return [item(f"shoes/{seed}", seed, metadata={"n": seed}) for seed in seeds]


def writer(folder: Path) -> Gallery:
    return Gallery.open_writer(folder, fingerprint=MODEL, dim=DIM)


def vectors_file(folder: Path) -> Path:
    return folder / "vectors" / "000000.f32"


def fill(folder: Path) -> Path:
    """Make a gallery of two batches: shoes/0 to shoes/4."""
    with writer(folder) as gallery:
        gallery.add(batch(0, 1, 2))
        gallery.add(batch(3, 4))
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, bytes, dict[str, Any]]]:
    with Gallery.open(folder) as gallery:
        assert gallery.verify() == []
        assert len(gallery) == len(gallery.ids()) == np.count_nonzero(gallery.live)
        described = gallery.items(np.flatnonzero(gallery.live))
        assert [item_id for item_id, _ in described] == gallery.ids()
        return {
            item_id: (gallery.vector(item_id).tobytes(), gallery.thumbnail(item_id), metadata)
            for item_id, metadata in described
        }
