"""Geometry and numbers of the image engine's input."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cir_rt.errors import PictureError
from cir_rt.preprocess import Preprocess

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def plain(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Normalise a picture value by value, in float64."""
    found = np.empty((3, *pixels.shape[:2]))
    for c in range(3):
        found[c] = (pixels[..., c] / 255.0 - preprocess.mean[c]) / preprocess.std[c]
    return found


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("side", [1, 7, 19, 111, 989])
def test_sizes(fit: str, side: int) -> None:
    preprocess = Preprocess(size=20, fit=fit, mean=CLIP_MEAN, std=CLIP_STD)
    for shape in ((side, side), (side, 33), (33, side)):
        picture = noise(*shape)
        pixels = preprocess.pixels(picture)
        assert (pixels.shape, pixels.dtype) == ((20, 20, 3), np.uint8)
        tensor = preprocess([picture])
        assert (tensor.shape, tensor.dtype) == ((1, 3, 20, 20), np.float32)
        assert tensor.flags.c_contiguous
        np.testing.assert_allclose(tensor[0], plain(pixels, preprocess), atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 19, 111])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_picture_of_the_right_size_is_left_alone(fit: str, size: int) -> None:
    picture = noise(size, size)
    np.testing.assert_array_equal(Preprocess(size=size, fit=fit).pixels(picture), picture)


def test_crop_keeps_the_middle() -> None:
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, :10], picture[:, 10:20], picture[:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert (Preprocess(size=10, fit="crop").pixels(picture) == (0, 255, 0)).all()
    upright = picture.transpose(1, 0, 2)
    assert (Preprocess(size=10, fit="crop").pixels(upright) == (0, 255, 0)).all()


def test_pad_keeps_everything_on_white() -> None:
    picture = np.zeros((10, 30, 3), np.uint8)
    pixels = Preprocess(size=30, fit="pad").pixels(picture)
    assert (pixels[10:20] == 0).all()
    assert (pixels[:10] == 255).all()
    assert (pixels[20:] == 255).all()
    upright = Preprocess(size=30, fit="pad").pixels(picture.transpose(1, 0, 2))
    np.testing.assert_array_equal(upright, pixels.transpose(1, 0, 2))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 500),
    width=st.integers(1, 500),
    size=st.integers(1, 64),
    fit=st.sampled_from(["crop", "pad"]),
)
def test_every_aspect_ratio_is_served(height: int, width: int, size: int, fit: str) -> None:
    grey = np.full((height, width, 3), 90, np.uint8)
    pixels = Preprocess(size=size, fit=fit).pixels(grey)
    assert pixels.shape == (size, size, 3)
    if fit == "crop":
        assert (pixels == 90).all()
        return
    inside = (pixels == 90).all(-1)
    assert (pixels[~inside] == 255).all()
    share = min(height, width) / max(height, width)
    lines = max(1, round(size * share))
    assert inside.sum() == lines * size
    middle = np.argwhere(inside).mean(0)
    assert np.abs(middle - (size - 1) / 2).max() <= 0.5


@pytest.mark.parametrize("shape", [(1, 500), (500, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_lines_of_one_pixel(fit: str, shape: tuple[int, int]) -> None:
    pixels = Preprocess(size=16, fit=fit).pixels(np.full((*shape, 3), 90, np.uint8))
    assert (pixels == 90).all(-1).sum() == (256 if fit == "crop" else 16)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((20, 24), 20), ((20, 25), 20), ((20, 50), 40), ((20, 100), 80), ((50, 20), 20)],
)
def test_targetpad_widens_what_is_long(shape: tuple[int, int], rows: int) -> None:
    """Grey rows of `size` that remain after the crop: black was added above and below."""
    grey = np.full((*shape, 3), 90, np.uint8)
    pixels = Preprocess(size=rows, fit="targetpad").pixels(grey)
    if min(shape) * 1.25 >= max(shape):
        assert (pixels == Preprocess(size=rows, fit="crop").pixels(grey)).all()
        return
    tall = pixels if shape[0] < shape[1] else pixels.transpose(1, 0, 2)
    lit = (tall > 45).all((1, 2))  # the edge is smooth
    dark = (tall < 10).all((1, 2))
    share = min(shape) / (max(shape) / 1.25)
    assert abs(lit.sum() / rows - share) <= 1 / rows
    assert dark[0]
    assert dark[-1]


def test_a_long_line_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def watched(image: Image.Image, size: tuple[int, int], *args: Any, **rest: Any) -> Any:
        made.append(size)
        return resize(image, size, *args, **rest)

    monkeypatch.setattr(Image.Image, "resize", watched)
    Preprocess(size=16, fit="crop").pixels(np.full((1, 30_000, 3), 90, np.uint8))
    assert max(math.prod(size) for size in made) < 64_000_000 // 16


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_batch_is_single(fit: str) -> None:
    preprocess = Preprocess(size=24, fit=fit)
    sources = [noise(5 * k + 3, 60 - 7 * k, k) for k in range(8)]
    batch = preprocess(sources)
    for k, source in enumerate(sources):
        np.testing.assert_array_equal(batch[k : k + 1], preprocess([source]))


def test_empty_batch() -> None:
    found = Preprocess(size=24)([])
    assert (found.shape, found.dtype) == ((0, 3, 24, 24), np.float32)


def test_kinds_of_source_give_one_answer() -> None:
    picture = noise(31, 47)
    image = Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    wide = np.zeros((31, 94, 3), np.uint8)
    wide[:, ::2] = picture
    batch = Preprocess(size=20)([picture, image, buffer.getvalue(), wide[:, ::2]])
    assert (batch == batch[:1]).all()


def test_normalise_takes_views() -> None:
    preprocess = Preprocess(size=7, mean=CLIP_MEAN, std=CLIP_STD)
    pixels = np.stack([noise(7, 7, k) for k in range(4)])
    for view in (pixels[::2], pixels[:, ::-1], pixels[..., ::-1]):
        found = preprocess.normalise(view)
        expected = np.stack([plain(p, preprocess) for p in view])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found.flags.c_contiguous
    assert preprocess.normalise(pixels[:0]).shape == (0, 3, 7, 7)


def test_a_bad_picture_is_refused() -> None:
    with pytest.raises(PictureError, match="no such file"):
        Preprocess()([noise(4, 4), "missing.jpg"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "at least 1"),
        ({"fit": "stretch"}, "crop, pad"),
        ({"std": (0.5, 0.0, 0.5)}, "above zero"),
        ({"mean": (0.5, 0.5)}, "three values"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preprocess(**change)


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (130, 70), (20, 31), (224, 224)])
def test_crop_is_the_rule_of_clip(shape: tuple[int, int]) -> None:
    """The long side is rounded here and cut to a whole number there: up to one pixel apart."""
    library = pytest.importorskip("transformers")
    with_pil = getattr(library, "CLIPImageProcessorPil", None) or library.CLIPImageProcessor
    theirs = with_pil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    ours = Preprocess(size=32, fit="crop", mean=CLIP_MEAN, std=CLIP_STD)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = [rows * 3, columns * 2, rows + columns]
    picture = np.stack([127 + 100 * np.sin(w / 15) for w in waves], -1).astype(np.uint8)
    expected = theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"]
    long = max(shape) * 32 / min(shape)
    tolerance = 0.02 if round(long) == int(long) else 0.35  # a grey value is 0.015
    np.testing.assert_allclose(ours([picture]), expected, atol=tolerance)
