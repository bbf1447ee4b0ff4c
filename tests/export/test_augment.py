"""Check the training pictures' random changes."""

from __future__ import annotations

import pytest
import torch

from cir_rt.export.train.augment import Augment

STILL = {"flip": 0.0, "zoom": 0.0, "stretch": 0.0, "shift": 0.0, "tilt": 0.0, "light": 0.0}


def pictures(n: int = 7, side: int = 19) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(9)) * 2 - 1


def changed(augment: Augment, seed: int = 0, n: int = 7) -> torch.Tensor:
    return augment(pictures(n), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 7])
def test_shape_and_type_stay(n: int) -> None:
    got = changed(Augment(erase=1.0), n=n)
    assert (got.shape, got.dtype) == ((n, 3, 19, 19), torch.float32)
    assert torch.isfinite(got).all()


def test_no_range_is_no_change() -> None:
    assert torch.allclose(changed(Augment(**STILL)), pictures(), atol=1e-5)


def test_a_certain_flip_is_a_mirror() -> None:
    got = changed(Augment(**{**STILL, "flip": 1.0}))
    assert torch.allclose(got, pictures().flip(-1), atol=1e-5)


def test_the_generator_fixes_the_change() -> None:
    first, again, other = (changed(Augment(erase=0.5), seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)


def test_every_picture_changes_in_its_own_way() -> None:
    same = pictures(1).expand(7, -1, -1, -1)
    got = Augment()(same, torch.Generator().manual_seed(0))
    assert all(not torch.allclose(got[0], got[k], atol=0.05) for k in range(1, 7))


def test_light_keeps_black_and_hue() -> None:
    got = changed(Augment(**{**STILL, "light": 0.5}))
    plain = pictures() + 1  # 0 is black
    light = (got + 1).sum((1, 2, 3), keepdim=True) / plain.sum((1, 2, 3), keepdim=True)
    assert torch.allclose(got + 1, plain * light, atol=1e-4)
    assert 0.5 <= light.min() < 0.9 < 1.1 < light.max() <= 1.5


def test_erase_blanks_one_rectangle() -> None:
    got = changed(Augment(**STILL, erase=1.0), n=19)
    blank = (got == 0).all(1)  # (n, side, side)
    for k in range(len(got)):
        rows, columns = blank[k].any(1), blank[k].any(0)
        assert torch.equal(blank[k], rows[:, None] & columns[None, :])
    assert blank.any((1, 2)).sum() >= 15
    kept = ~blank[:, None].expand_as(got)
    assert torch.allclose(got[kept], pictures(19)[kept], atol=1e-5)
