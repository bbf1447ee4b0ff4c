"""Hold token merging against PyTorch's pooling."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from cir_rt.errors import ConfigError
from cir_rt.export.models.merging import TokenMerging
from cir_rt.export.rewrites.merge import merge_tokens, merging

SIZES = [(577, 145), (577, 65), (145, 65), (26, 10), (26, 2), (17, 10), (50, 37), (5, 2)]


def drawn(places: int, width: int = 7) -> Tensor:
    return torch.randn(3, places, width, generator=torch.Generator().manual_seed(places))


def pooled(tokens: Tensor, fewer: int) -> Tensor:
    """Average on the grid as PyTorch does, the first token beside it."""
    side, kept = round((tokens.shape[1] - 1) ** 0.5), round((fewer - 1) ** 0.5)
    grid = tokens[:, 1:].mT.unflatten(2, (side, side))
    averages = F.adaptive_avg_pool2d(grid, (kept, kept)).flatten(2).mT
    return torch.cat([tokens[:, :1], averages], dim=1)


@pytest.mark.parametrize(("places", "fewer"), SIZES)
def test_neighbours_are_averaged(places: int, fewer: int) -> None:
    tokens = drawn(places)
    got = TokenMerging(places, fewer)(tokens)
    assert got.shape == (3, fewer, 7)
    assert torch.equal(got[:, 0], tokens[:, 0])
    assert (got - pooled(tokens, fewer)).abs().max() < 1e-5


def test_even_sides_average_squares() -> None:
    tokens = drawn(577)
    grid = tokens[:, 1:].mT.unflatten(2, (24, 24))
    for fewer, side in ((145, 2), (65, 3)):
        got = TokenMerging(577, fewer)(tokens)[:, 1:]
        assert (got - F.avg_pool2d(grid, side).flatten(2).mT).abs().max() < 1e-5


@pytest.mark.parametrize(("places", "fewer"), SIZES)
def test_what_is_the_same_everywhere_stays(places: int, fewer: int) -> None:
    assert np.abs(merging(places, fewer).sum(1) - 1).max() < 1e-6


def test_the_module_keeps_half_precision_and_no_state() -> None:
    module = TokenMerging(26, 10)
    assert module(drawn(26).half()).dtype == torch.float16
    assert not module.state_dict()


@pytest.mark.parametrize(("places", "fewer"), [(576, 145), (577, 144), (577, 577), (145, 577)])
def test_other_numbers_are_refused(places: int, fewer: int) -> None:
    with pytest.raises(ConfigError, match=f"{places} tokens cannot become {fewer}"):
        merging(places, fewer)
    with pytest.raises(ConfigError, match="one of: 2, 5, 10"):
        merging(26, 25)
    with pytest.raises(ConfigError, match="there are too few"):
        merging(2, 1)


def image_graph(output: str = "tokens") -> onnx.ModelProto:
    """An image engine's graph: tokens (batch, 26, 4) that are twice the pixels."""
    sizes = ["batch", 26, 4]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, sizes) for n in ("pixels", output)
    ]
    node = helper.make_node("Add", ["pixels", "pixels"], [output])
    made = helper.make_graph([node], "image", values[:1], values[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_graph_is_merged_as_the_module_does() -> None:
    model = image_graph()
    merged = merge_tokens(model, 10)
    onnx.checker.check_model(merged, full_check=True)
    pixels = drawn(26, 4)
    (got,) = ReferenceEvaluator(merged).run(None, {"pixels": pixels.numpy()})
    assert np.abs(got - TokenMerging(26, 10)(2 * pixels).numpy()).max() < 1e-5
    assert merged.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 10
    assert model == image_graph()  # left as it was


def test_another_graph_is_refused() -> None:
    with pytest.raises(ConfigError, match="no output 'tokens'"):
        merge_tokens(image_graph("vector"), 10)
