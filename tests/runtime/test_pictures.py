"""Pictures of every kind: read as upright RGB, or refused by name."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cir_rt import pictures
from cir_rt.errors import PictureError
from cir_rt.pictures import load

ORIENTATION = 274
# What a viewer does to the stored pixels for each EXIF orientation.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def noise(height: int = 7, width: int = 11, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def pixels(source: Any) -> np.ndarray:
    image = load(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_path_bytes_picture_and_array_are_one(tmp_path: Path) -> None:
    array = noise()
    data = encoded(Image.fromarray(array))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, str(path), data, Image.open(path), Image.fromarray(array), array):
        np.testing.assert_array_equal(pixels(source), array)


@pytest.mark.parametrize("side", [1, 7, 19, 111, 989])
def test_sizes(side: int) -> None:
    array = noise(side, 3)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(array))), array)


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    # Blocks of one colour, so that JPEG keeps them apart.
    array = np.kron(noise(2, 3, seed=4), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.fromarray(array)
    plain = np.asarray(Image.open(io.BytesIO(encoded(image, kind))).convert("RGB"))
    turned = pixels(encoded(image, kind, exif=exif))
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](plain))


def test_an_impossible_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 77
    array = noise()
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(array), exif=exif)), array)


def on_white(array: np.ndarray) -> np.ndarray:
    colour, alpha = array[..., :3].astype(float), array[..., 3:].astype(float) / 255
    return colour * alpha + 255 * (1 - alpha)


def test_transparency_is_laid_on_white() -> None:
    array = noise(channels=4)
    array[0, 0, 3], array[0, 1, 3] = 0, 255
    for source in (array, encoded(Image.fromarray(array)), Image.fromarray(array)):
        found = pixels(source)
        np.testing.assert_allclose(found, on_white(array), atol=1)
        assert (found[0, 0] == 255).all()
        np.testing.assert_array_equal(found[0, 1], array[0, 1, :3])


def test_grey_with_alpha() -> None:
    array = noise(channels=2)
    found = pixels(encoded(Image.fromarray(array)))
    as_rgba = np.concatenate([array[..., :1].repeat(3, -1), array[..., 1:]], -1)
    np.testing.assert_allclose(found, on_white(as_rgba), atol=1)


def test_palette() -> None:
    image = Image.fromarray(noise()).quantize(16)
    np.testing.assert_array_equal(pixels(encoded(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", ["one entry", "a value for each entry"])
def test_palette_with_transparency(transparency: str) -> None:
    image = Image.fromarray(noise()).quantize(16)
    rows, opaque = np.asarray(image), np.asarray(image.convert("RGB"))
    index = int(rows[0, 0])
    alpha = bytes(0 if k == index else 255 for k in range(16))
    data = encoded(image, transparency=index if transparency == "one entry" else alpha)
    np.testing.assert_array_equal(
        pixels(data), np.where((rows == index)[..., None], 255, opaque).astype(np.uint8)
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_one_transparent_colour(mode: str) -> None:
    colour: Any = (0, 0, 0) if mode == "RGB" else 0
    image = Image.new(mode, (4, 4), colour)
    assert (pixels(encoded(image, transparency=colour)) == 255).all()


def test_grey_and_one_bit() -> None:
    grey = noise(channels=1)[..., 0]
    as_rgb = grey[..., None].repeat(3, -1)
    np.testing.assert_array_equal(pixels(grey), as_rgb)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(grey))), as_rgb)
    bits = (grey > 127).astype(np.uint8) * 255
    image = Image.fromarray(bits).convert("1", dither=Image.Dither.NONE)
    np.testing.assert_array_equal(pixels(encoded(image)), bits[..., None].repeat(3, -1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(kind: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    found = pixels(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(found[..., 0], [[0, 1, 128, 255]])


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted(kind: str) -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan alone
    red, green, blue = pixels(encoded(image, kind))[8, 8].astype(int)
    assert red < 60
    assert min(green, blue) > 150


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range_are_refused_by_name(mode: str) -> None:
    for source in (Image.new(mode, (4, 4)), encoded(Image.new(mode, (4, 4)), "TIFF")):
        with pytest.raises(PictureError, match=f"mode {mode} "):
            load(source)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
    ids=["float", "int64", "channels first", "batch", "flat"],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(PictureError, match=re.escape(str(array.shape))):
        load(array)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0)])
def test_arrays_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match="no pixels"):
        load(np.zeros(shape, np.uint8))


def test_arrays_need_not_be_contiguous() -> None:
    array = noise(14, 22)
    for view in (array[::2, ::2], array[::-1], array.transpose(1, 0, 2), array[..., ::-1]):
        np.testing.assert_array_equal(pixels(view), view)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")
    for source, said in (
        (tmp_path / "missing.jpg", "no such file"),
        (tmp_path, "is a folder"),
        (text, "not a picture"),
        (b"", "not a picture"),
        (b"not a picture", "not a picture"),
    ):
        with pytest.raises(PictureError, match=said) as caught:
            load(source)
        if isinstance(source, Path):
            assert str(source) in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(share * len(data))])
    for source in (path, path.read_bytes()):
        with pytest.raises(PictureError):
            load(source)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [Image.fromarray(noise(seed=k)) for k in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match="animated or multi-page"):
        load(data)
    load(encoded(frames[0], kind))


def claiming(width: int, height: int) -> bytes:
    """Return a PNG of one pixel whose header speaks of another size."""
    data = bytearray(encoded(Image.new("RGB", (1, 1))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "size", [(8001, 8000), (100_000, 100_000), (30_001, 1)], ids=["area", "bomb", "side"]
)
def test_too_large_is_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(PictureError, match="too large"):
        load(claiming(*size))


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 77)
    load(noise(7, 11))
    with pytest.raises(PictureError, match="12 x 7"):
        load(noise(7, 12))


def test_a_truncated_open_picture_is_refused() -> None:
    data = encoded(Image.fromarray(noise(64, 64)))
    with pytest.raises(PictureError, match="truncated"):
        load(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_whatever_the_decoder_raises_is_a_refusal() -> None:
    data = bytearray(encoded(Image.fromarray(noise()), "TIFF"))
    start = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[start : start + 2], "little")
    following = start + 2 + 12 * entries  # where the next page's place stands
    data[following : following + 4] = len(data).to_bytes(4, "little")
    with pytest.raises(PictureError):
        load(bytes(data) + bytes(6))  # a page without a single entry


@pytest.mark.parametrize("mode", ["LAB", "HSV"])
def test_eight_bit_colour_spaces_are_not_called_32_bit(mode: str) -> None:
    with pytest.raises(PictureError, match=mode) as caught:
        load(Image.new(mode, (4, 4)))
    assert "32-bit" not in str(caught.value)


def test_sixteen_bits_with_a_transparent_value_keep_their_range() -> None:
    values = np.full((4, 4), 32896, np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", transparency=0)
    assert np.asarray(load(buffer.getvalue())).mean() == 128


def test_loading_leaves_the_warnings_of_the_process_alone() -> None:
    before = list(warnings.filters)
    data = encoded(Image.fromarray(noise()))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(load, [data] * 200))
    assert list(warnings.filters) == before
