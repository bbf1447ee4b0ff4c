"""Check the towers and their composition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import RECIPE

from cir_rt.errors import CheckpointError, ConfigError
from cir_rt.export.checkpoint import TowerSpec
from cir_rt.export.models.kinds import build_tower
from cir_rt.export.models.palette import Palette
from cir_rt.export.models.progressive import WeightedComposition
from cir_rt.export.models.towers import ConvTower, ConvTowerConfig, TextTower, TextTowerConfig
from cir_rt.export.train.recipes import Progressive


@pytest.fixture(scope="module")
def text() -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextTowerConfig(vocabulary=111, context=19, width=32, dim=24)).eval()


@pytest.fixture(scope="module", params=[(0, 0, False), (3, 0, True), (3, 7, True)])
def image(request: pytest.FixtureRequest) -> ConvTower:
    torch.manual_seed(0)
    palettes, outline, mirrored = request.param
    config = ConvTowerConfig(
        stem=8,
        widths=(16, 24),
        blocks=2,
        dim=24,
        palettes=palettes,
        palette_width=10,
        outline=outline,
        mirrored=mirrored,
    )
    tower = ConvTower(config)
    tower.train()(torch.randn(19, 3, 32, 32))  # moves the batch norms off their start
    return tower.eval()


def words(n: int, length: int) -> torch.Tensor:
    return torch.randint(1, 111, (n, length), generator=torch.Generator().manual_seed(n))


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert (a - b).abs().max() < 1e-5


@torch.inference_mode()
def test_padding_does_not_change_a_text(text: TextTower) -> None:
    for length in (1, 7, 18):
        ids = words(7, length)
        padded = torch.zeros(7, 19, dtype=torch.int64)
        padded[:, :length] = ids
        assert_close(text(padded), text(ids))


@torch.inference_mode()
def test_a_batch_of_texts_is_its_rows(text: TextTower) -> None:
    ids = words(7, 19)
    for k in range(7):
        ids[k, 1 + 2 * k :] = 0
    together = text(ids)
    for k in range(7):
        assert_close(together[k], text(ids[k : k + 1, : 1 + 2 * k])[0])


@torch.inference_mode()
def test_the_order_of_words_counts(text: TextTower) -> None:
    ids = words(1, 7)
    assert (text(ids) - text(ids.flip(1))).abs().max() > 1e-3


@torch.inference_mode()
def test_only_padding_is_still_a_vector(text: TextTower) -> None:
    assert torch.isfinite(text(torch.zeros(1, 3, dtype=torch.int64))).all()


@torch.inference_mode()
@pytest.mark.parametrize("n", [1, 7, 19])
def test_a_batch_of_pictures_is_its_rows(image: ConvTower, n: int) -> None:
    pixels = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(n))
    together = image(pixels)
    assert together.shape == (n, 24)
    for k in range(n):
        assert_close(together[k], image(pixels[k : k + 1])[0])
    assert_close(image(pixels.contiguous(memory_format=torch.channels_last)), together)


@torch.inference_mode()
def test_vectors_have_unit_length(image: ConvTower, text: TextTower) -> None:
    ones = torch.ones(7)
    assert_close(image(torch.randn(7, 3, 32, 32)).norm(dim=-1), ones)
    assert_close(text(words(7, 5)).norm(dim=-1), ones)


@torch.inference_mode()
def test_a_mirrored_tower_sees_a_picture_as_its_mirror_image() -> None:
    torch.manual_seed(0)
    config = ConvTowerConfig(stem=8, widths=(16, 24), dim=24, palettes=3, palette_width=10)
    alone, both = ConvTower(config).eval(), ConvTower(replace(config, mirrored=True)).eval()
    both.load_state_dict(alone.state_dict())
    pixels = torch.randn(7, 3, 32, 32)
    assert_close(both(pixels), both(pixels.flip(-1)))
    assert (alone(pixels) - alone(pixels.flip(-1))).abs().max() > 1e-3
    assert torch.equal(both.read(pixels).tokens[:, 1:], alone.read(pixels).tokens[:, 1:])
    halfway = torch.nn.functional.normalize(alone(pixels) + alone(pixels.flip(-1)), dim=-1)
    assert (both(pixels) * halfway).sum(-1).min() > 0.999
    assert_close(both.train()(pixels), alone.train()(pixels))  # learning looks at one


@torch.inference_mode()
def test_tokens_are_the_places_of_a_picture(image: ConvTower) -> None:
    pixels = torch.randn(7, 3, 32, 32)
    seen = image.read(pixels)
    assert torch.equal(seen.vectors, image(pixels))
    assert seen.tokens.shape == (7, 1 + 4 * 4, image.width)
    ordered = torch.nn.functional.normalize(seen.tokens[:, 0, :24] - seen.tokens[:, 0, :1], dim=-1)
    centred = torch.nn.functional.normalize(seen.vectors - seen.vectors[:, :1], dim=-1)
    assert_close(ordered, centred)  # the vector itself, scaled and shifted
    moved = pixels.clone()
    moved[:, :, 24:, 24:] += 0.5  # the last of 4 x 4 places: it changes most
    change = (image.read(moved).tokens - seen.tokens).norm(dim=-1)
    assert (change[:, 1:].argmax(dim=1) == 15).all()


@torch.inference_mode()
def test_tokens_are_the_words_of_a_text(text: TextTower) -> None:
    ids = words(7, 19)
    ids[:, 11:] = 0
    said = text.read(ids)
    assert torch.equal(said.vectors, text(ids))
    assert said.mask is not None
    assert torch.equal(said.mask, ids != 0)
    pooled = said.tokens[:, :11].mean(1)
    assert_close(torch.nn.functional.normalize(text.project(pooled), dim=-1), said.vectors)


@torch.inference_mode()
def test_a_palette_is_the_mean_colour_where_it_looks() -> None:
    torch.manual_seed(0)
    palette = Palette([5, 6], heads=2, width=8).eval()
    pixels, fine, coarse = (
        torch.randn(3, 3, 16, 16),
        torch.randn(3, 5, 4, 4),
        torch.randn(3, 6, 2, 2),
    )
    pooled, codes = palette(pixels, [fine, coarse])
    small = pixels.unflatten(2, (4, 4)).unflatten(4, (4, 4)).mean((3, 5))  # blocks of 4 x 4
    assert_close(codes, palette.code(small))
    alike = palette(pixels, [0 * fine, 0 * coarse])[0]  # looks everywhere alike
    assert_close(alike, codes.mean((2, 3)).repeat(1, 2))
    far = torch.zeros(3, 5, 4, 4)
    far[:, :, 1, 2] = 1e4 * palette.look[0].weight[1, :, 0, 0]
    assert_close(palette(pixels, [far, 0 * coarse])[0][:, 8:], codes[:, :, 1, 2])
    assert pooled.shape == (3, 16)


@pytest.mark.parametrize("role", ["image", "text"])
def test_default_towers_are_small(role: str) -> None:
    spec: TowerSpec = getattr(Progressive(), role)
    assert sum(p.numel() for p in build_tower(spec).parameters()) <= 2_000_000


def test_unknown_kinds_and_settings_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"no tower of kind 'vit'\. Known: conv"):
        build_tower(TowerSpec(kind="vit"))
    with pytest.raises(ConfigError, match="Did you mean 'widths'"):
        build_tower(TowerSpec(kind="conv", settings={"width": [3]}))
    assert isinstance(build_tower(RECIPE.image), ConvTower)


@torch.inference_mode()
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_composition_is_its_formula(temperature: float) -> None:
    torch.manual_seed(0)
    compose = WeightedComposition(8, temperature)
    v, u = torch.nn.functional.normalize(torch.randn(2, 7, 8), dim=-1)
    q, weights = compose(v, u)
    for k in range(7):
        both = torch.cat([v[k], u[k]])
        hidden = (compose.hidden.weight @ both + compose.hidden.bias).clamp(min=0)
        odds = ((compose.gate.weight @ hidden + compose.gate.bias) / temperature).exp()
        assert_close(weights[k], odds / odds.sum())
        mixed = weights[k, 0] * v[k] + weights[k, 1] * u[k]
        assert_close(q[k], mixed / mixed.norm())


@torch.inference_mode()
def test_an_outline_closes_the_vector_with_its_share() -> None:
    torch.manual_seed(0)
    config = ConvTowerConfig(stem=8, widths=(16, 24), dim=24, outline=5, outline_share=0.36)
    tower = ConvTower(config).eval()
    pixels = torch.randn(3, 3, 32, 32)
    tower.outline.fit([torch.randn(40, 3, 32, 32)])
    vectors = tower(pixels)
    assert_close(vectors[:, 19:], 0.6 * tower.outline(pixels))
    assert_close(vectors.norm(dim=1), torch.ones(3))
    assert not tower.train()(pixels)[:, 19:].any()  # nothing to lean on
