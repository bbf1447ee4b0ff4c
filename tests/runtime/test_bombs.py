"""Pictures that are small and dear: refused at little cost, and honest ones that look like them."""

from __future__ import annotations

import io
import struct

import pytest
from dear_pictures import many_pieces, noise, pages, saved, scanned, tiff
from PIL import Image

from cir_rt import bombs
from cir_rt.bombs import FREE_READS, MOST_STRIPS, Metered
from cir_rt.errors import PictureError
from cir_rt.pictures import load, opened


@pytest.mark.parametrize("name", many_pieces())
def test_what_comes_in_too_many_pieces_is_refused(name: str) -> None:
    with pytest.raises(PictureError, match="too many pieces"):
        load(many_pieces()[name])


def test_pieces_are_counted_by_the_size_of_a_file() -> None:
    for size in (0, 989, 64_000):
        metered = Metered(io.BytesIO(bytes(size)))
        for _ in range(FREE_READS + size // 64):
            metered.read(1)
        with pytest.raises(PictureError, match="too many pieces"):
            metered.read(1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_honest_pictures_are_far_from_the_limit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "FREE_READS", 100)
    assert load(saved(noise(700, 900), kind)).size == (900, 700)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_tiff_has_no_more_strips_than_an_honest_one(order: str, big: bool) -> None:
    assert load(tiff(999, order, big)).size == (4, 999)
    for strips in (MOST_STRIPS + 1, 2**32 - 1):
        data = bytearray(tiff(1, order, big))
        place = data.index(struct.pack(order + "HH", 273, 4)) + 4
        struct.pack_into(order + ("Q" if big else "I"), data, place, strips)
        with pytest.raises(PictureError, match=f"TIFF of {strips} strips"):
            load(bytes(data))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_the_tiff_that_pillow_misreads_is_refused() -> None:
    with pytest.raises(PictureError):  # where a new Pillow reads it, `check_strips` must too
        load(tiff(7, ">", big=True))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("cut", [5, 9, 17, 21, 33, 60])
def test_a_cut_directory_is_damaged_and_no_more(cut: int) -> None:
    with pytest.raises(PictureError):
        load(tiff(7)[:cut])


def test_pages_are_not_counted() -> None:
    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            return super().read(size)

    reads = []
    for count in (2, 3000):
        file = Counted(pages(count))
        with pytest.raises(PictureError, match="animated or multi-page"):
            load(Image.open(file))
        reads.append(file.reads)
    assert reads[0] == reads[1]


def test_scans_are_bounded_by_number_and_by_pixels() -> None:
    load(scanned(bombs.MOST_SCANS))
    for data in (scanned(bombs.MOST_SCANS + 1), scanned(81, side=3000)):
        with pytest.raises(PictureError, match="scans: too many"):
            load(data)
        with pytest.raises(PictureError, match="scans: too many"):
            load(Image.open(io.BytesIO(data)))  # whoever opened it


@pytest.mark.parametrize("progressive", [False, True])
def test_an_honest_jpeg_has_few_scans(progressive: bool) -> None:
    data = saved(noise(400, 500), "JPEG", progressive=progressive, optimize=True)
    assert load(data).size == (500, 400)
    assert data.count(b"\xff\xda") < bombs.MOST_SCANS / 5


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX", "EPS"])
def test_other_formats_are_refused_though_pillow_knows_them(kind: str) -> None:
    with pytest.raises(PictureError, match="Expected JPEG, PNG, WEBP, BMP, TIFF or GIF"):
        load(saved(noise(), kind))


def test_a_caller_may_allow_fewer_pixels() -> None:
    data = saved(noise(30, 40), "PNG")
    assert opened(data, 1200).size == (40, 30)
    with pytest.raises(PictureError, match=r"\(40 x 30\). Expected at most 0.001199 megapixels"):
        opened(data, 1199)
