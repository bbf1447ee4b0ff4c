"""Vectors of a large gallery: an encoder's output on augmented real photos, cached in a folder.

The gallery's pictures are mixes of two photos of the train split, each turned, cropped, mirrored
and recoloured at random, so that a million of them are no near duplicates. The queries are photos
of the val split, which no gallery picture is made of: as they are, and composed with their
captions. Blocks are seeded by their number, so that an interrupted run goes on where it stood.

    python benchmarks/augmented.py photos/ photos.cir /tmp/vectors --rows 1000000
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image

from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset

BLOCK_ROWS = 10_000
QUERIES = 1000
PHOTO_SIDE = 112  # pixels a photo is kept at: some more than the encoder reads
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("data", type=FOLDER)
@click.argument("bundle", type=FOLDER)
@click.argument("folder", type=FOLDER)
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(data: Path, bundle: Path, folder: Path, rows: int, threads: int) -> None:
    """Fill FOLDER with vectors of the photos of DATA as the engines of BUNDLE see them."""
    make(data, bundle, folder, rows, threads)


def make(data: Path, bundle: Path, folder: Path, rows: int, threads: int) -> None:
    """Write the blocks and queries that the folder lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [_block_path(folder, b) for b in range(-(-rows // BLOCK_ROWS))]
    wanted = [path for path in (*blocks, folder / "queries.npy") if not path.exists()]
    if not wanted:
        return
    encoder, dataset = Encoder.open(open_bundle(bundle), threads=threads), open_dataset(data)
    if folder / "queries.npy" in wanted:
        _save(folder / "queries.npy", _queries(encoder, dataset))
    photos = _photos(dataset)
    for number, path in enumerate(blocks):
        if path in wanted:
            _save(path, _encoded(encoder, photos, number))


def block(folder: Path, number: int) -> np.ndarray:
    """Return one block of the gallery's vectors: (BLOCK_ROWS, dim) float32."""
    return np.load(_block_path(folder, number))


def _block_path(folder: Path, number: int) -> Path:
    return folder / f"block-{number:04d}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    partial = path.with_suffix(".partial.npy")
    np.save(partial, array)
    os.replace(partial, path)


def _queries(encoder: Encoder, dataset: Dataset) -> np.ndarray:
    """Return half photos, half photos composed with words: (QUERIES, dim) float32, unit length."""
    val = dataset.split("val")
    rng = np.random.default_rng(0)
    asked = [val.queries[i] for i in rng.permutation(len(val.queries))[: QUERIES // 2]]
    references = encoder.encode_pictures(dataset.paths(q.reference for q in asked))
    composed, _ = encoder.compose(references, encoder.encode_texts([q.text for q in asked]), None)
    others = [val.pictures[i] for i in rng.permutation(len(val.pictures))[: QUERIES // 2]]
    return np.concatenate([encoder.encode_pictures(dataset.paths(others)), composed])


def _photos(dataset: Dataset) -> list[Image.Image]:
    held_out = set(dataset.split("val").pictures)
    ids = [i for i in dataset.split("train").pictures if i not in held_out]
    found = []
    for path in dataset.paths(ids):
        with Image.open(path) as image:
            found.append(image.convert("RGB").resize((PHOTO_SIDE, PHOTO_SIDE)))
    return found


def _encoded(encoder: Encoder, photos: Sequence[Image.Image], number: int) -> np.ndarray:
    """Return the vectors of one block: (BLOCK_ROWS, dim) float32."""
    rng = np.random.default_rng([7, number])
    side, parts = encoder.preprocess.size, []
    for start in range(0, BLOCK_ROWS, encoder.batch):
        count = min(encoder.batch, BLOCK_ROWS - start)
        pixels = np.stack([_mixed(photos, side, rng) for _ in range(count)])
        gain = rng.uniform(0.6, 1.4, (count, 1, 1, 3)) * rng.uniform(0.7, 1.3, (count, 1, 1, 1))
        shift = rng.uniform(-40, 40, (count, 1, 1, 3))
        coloured = np.clip(pixels * gain.astype("f4") + shift.astype("f4"), 0, 255)
        parts.append(encoder.encode_pixels(encoder.preprocess.normalise(coloured)))
    return np.concatenate(parts)


def _mixed(photos: Sequence[Image.Image], side: int, rng: np.random.Generator) -> np.ndarray:
    """Return two photos, one beside or laid over the other: (side, side, 3) uint8."""
    a, b = (_turned(photos[i], side, rng) for i in rng.integers(len(photos), size=2))
    if rng.random() < 0.5:
        return np.asarray(Image.blend(a, b, rng.uniform(0, 0.5)))
    mixed, cut = np.array(a), int(side * rng.uniform(0.5, 1))
    mixed[:, cut:] = np.asarray(b)[:, cut:]
    return mixed


def _turned(photo: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Return a random crop of the photo, turned, perhaps mirrored; outside of it is white."""
    angle, zoom = rng.uniform(-0.5, 0.5), rng.uniform(0.4, 1.1)
    across = zoom * rng.choice((-1, 1))  # mirrored where negative
    down = zoom * rng.uniform(0.8, 1.25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn * (across, down) * photo.width / side
    centre = photo.width / 2 * (1 + rng.uniform(-0.25, 0.25, 2))
    offset = centre - matrix @ (side / 2, side / 2)
    numbers = np.column_stack([matrix, offset]).ravel()
    return photo.transform(
        (side, side),
        Image.Transform.AFFINE,
        tuple(numbers),
        Image.Resampling.BILINEAR,
        fillcolor="white",
    )


if __name__ == "__main__":
    main()
