"""Check the whitened thumbnail."""

from __future__ import annotations

import pytest
import torch

from cir_rt.export.models.outline import SIDE, Outline


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    """Return smooth pictures of 32 x 32, each channel another share of one grey."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 1, 6, 6), generator=generator)
    grey = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic")
    return grey * torch.tensor([0.5, 1.0, 1.5])[:, None, None]


def fitted(width: int, seen: torch.Tensor) -> Outline:
    outline = Outline(width)
    outline.fit(seen.split(17))
    return outline


def thumbnails(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.mean(1).view(-1, SIDE, 2, SIDE, 2).mean((2, 4)).flatten(1)


def test_seen_pictures_come_out_white() -> None:
    seen = pictures(400)
    outline = fitted(9, seen)
    numbers = (thumbnails(seen) - outline.mean) @ outline.weight
    assert numbers.mean(0).abs().max() < 1e-4
    assert (torch.cov(numbers.T) - torch.eye(9)).abs().max() < 1e-3


def test_the_strongest_directions_are_kept() -> None:
    seen = thumbnails(pictures(400))
    directions = torch.linalg.svd(seen - seen.mean(0)).Vh[:9]
    kept = torch.nn.functional.normalize(fitted(9, pictures(400)).weight, dim=0)
    assert torch.allclose((directions @ kept).abs(), torch.eye(9), atol=1e-2)


def test_what_is_seen_alike_is_seen_alike_by_vectors() -> None:
    outline = fitted(9, pictures(400))
    new = pictures(5, seed=1)
    vectors, brighter = outline(new), outline(new + 0.01 * torch.randn(new.shape))
    assert (vectors.norm(dim=1) - 1).abs().max() < 1e-5
    assert ((vectors @ brighter.T).argmax(1) == torch.arange(5)).all()


def test_hue_is_not_seen() -> None:
    outline = fitted(9, pictures(400))
    new = pictures(5, seed=1)
    assert (outline(new) - outline(new.flip(1))).abs().max() < 1e-5


def test_nothing_of_it_is_learnt() -> None:
    assert not list(Outline(9).parameters())


@pytest.mark.parametrize("width", [0, SIDE**2])
def test_refuses_a_width_that_thumbnails_lack(width: int) -> None:
    with pytest.raises(ValueError, match="1 to 255"):
        Outline(width)
