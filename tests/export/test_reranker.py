"""Hold stage II against the specification, followed pair by pair with transformers' own layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import run_exported
from grounded_models import captions, config, lengths, stirred, tokens
from torch import Tensor
from transformers import BlipTextConfig, BlipTextModel

from cir_rt.errors import ConfigError
from cir_rt.export.models.blip import our_weights
from cir_rt.export.models.grounded import GroundedTextEncoder
from cir_rt.export.models.reranker import Reranker
from cir_rt.export.models.shapes import GroundedTextConfig


def theirs(layers: int, seed: int) -> Any:
    """A random BLIP text encoder of transformers."""
    torch.manual_seed(seed)
    shape = config(layers=layers)
    values = BlipTextConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
        hidden_size=shape.width,
        num_attention_heads=shape.heads,
        num_hidden_layers=layers,
        intermediate_size=shape.inner,
        encoder_hidden_size=shape.image_width,
        pad_token_id=0,
    )
    return stirred(BlipTextModel(values, add_pooling_layer=False), seed)


def ours(model: Any, layers: int) -> GroundedTextEncoder:
    """The same encoder as ours."""
    prefix = "text.encoder."
    named = {f"text_encoder.{key}": tensor for key, tensor in model.state_dict().items()}
    weights = {k.removeprefix(prefix): v for k, v in our_weights(named).items()}
    encoder = GroundedTextEncoder(config(layers=layers))
    encoder.load_state_dict(weights)
    return encoder.eval()


def two_encoders(layers: int) -> tuple[Reranker, Any, Any]:
    """A re-ranker whose streams come from two encoders, the rest from the first, and those two."""
    one, two = theirs(layers, 1), theirs(layers, 2)
    reranker = Reranker.from_single(ours(one, layers))
    for layer, other in zip(reranker.layers, ours(two, layers).layers, strict=True):
        layer.stream1.load_state_dict(other.reading.state_dict())
        if layer.merge is not None:
            stirred(layer.merge, 3)
    stirred(reranker.head, 4)
    return reranker.eval(), one, two


def scored(reranker: Reranker, one: Any, two: Any, z: Tensor, ids: Tensor, seen: Tensor) -> float:
    """Score one pair as the specification words it; ids without padding."""
    marked = ids.clone()
    marked[0] = reranker.config.enc_id
    x0, x1 = z[None], one.embeddings(input_ids=marked[None])
    depth = len(reranker.layers)
    pairs = zip(one.encoder.layer, two.encoder.layer, strict=True)
    for k, (layer0, layer1) in enumerate(pairs):
        x0, x1 = layer0.attention(x0)[0], layer1.attention(x1)[0]
        cross0, cross1 = layer0.crossattention, layer1.crossattention
        h0 = cross0.output.dense(cross0.self(x0, encoder_hidden_states=seen[None])[0])
        h1 = cross1.output.dense(cross1.self(x1, encoder_hidden_states=seen[None])[0])
        if k < depth // 2:
            merged = (h0 + h1) / 2
        else:
            linear = reranker.layers[k].merge
            merged = torch.cat([h0, h1], -1) @ linear.weight.T + linear.bias
        x0 = cross0.output.LayerNorm(merged + x0)
        x1 = cross1.output.LayerNorm(merged + x1)
        x0, x1 = layer0.feed_forward_chunk(x0), layer0.feed_forward_chunk(x1)
    up, _, down = reranker.head
    both = torch.cat([x0[0, 0], x1[0, 0]])
    hidden = (up.weight @ both + up.bias).clamp(min=0)
    return float(down.weight[0] @ hidden + down.bias[0])


def given(b: int, k: int, length: int = 7, places: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    z = torch.randn(b, length, 32, generator=torch.Generator().manual_seed(b))
    return z, captions(b, length), tokens(k, places, seed=k)


@torch.inference_mode()
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize(("b", "k"), [(1, 1), (3, 5), (5, 2)])
def test_scores_are_the_specifications(layers: int, b: int, k: int) -> None:
    reranker, one, two = two_encoders(layers)
    z, ids, candidates = given(b, k)
    got = reranker(z, ids, candidates)
    assert got.shape == (b, k)
    for i, length in enumerate(lengths(ids)):
        for j in range(k):
            pair = (z[i, :length], ids[i, :length], candidates[j])
            assert float(got[i, j]) == pytest.approx(scored(reranker, one, two, *pair), abs=1e-5)
    assert got.numel() == 1 or got.std() > 1e-2


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return two_encoders(3)[0]


@torch.inference_mode()
def test_pairs_are_the_same_scores(reranker: Reranker) -> None:
    """Of a query with candidates of its own, whatever stands beside it."""
    z, ids, candidates = given(4, 12)
    everything = reranker(z, ids, candidates)
    chosen = torch.randint(12, (4, 5), generator=torch.Generator().manual_seed(0))
    got = reranker.pairs(z, ids, candidates[chosen])
    assert (got - everything.gather(1, chosen)).abs().max() < 1e-5
    alone = reranker.pairs(z[1:2], ids[1:2], candidates[None, 7:8])
    assert (alone - everything[1, 7]).abs().max() < 1e-5


@torch.inference_mode()
def test_a_candidate_is_projected_once_however_many_queries_there_are() -> None:
    reranker = two_encoders(2)[0]
    projected: list[int] = []
    for layer in reranker.layers:
        for stream in (layer.stream0, layer.stream1):
            stream.cross.keys_values.register_forward_pre_hook(
                lambda _, inputs: projected.append(inputs[0].shape[0])
            )
    reranker(*given(5, 3))
    assert projected == [3] * 4


@torch.inference_mode()
def test_from_single_computes_what_the_encoder_does() -> None:
    """Two streams that start alike stay alike, through averages and fresh Linears."""
    encoder = stirred(GroundedTextEncoder(config(layers=4)))
    reranker = Reranker.from_single(encoder).eval()
    read: list[Tensor] = []
    reranker.head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    _, ids, candidates = given(3, 3)
    paired = candidates[:, None]
    reranker.pairs(encoder.embedding(ids), ids, paired)
    wanted = encoder(ids, candidates)[:, 0]
    assert (read[0] - torch.cat([wanted, wanted], -1)).abs().max() < 1e-5


def test_streams_are_copies_of_their_own() -> None:
    encoder = stirred(GroundedTextEncoder(config()))
    reranker = Reranker.from_single(encoder)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for parameter in reranker.layers[0].stream0.parameters():
        parameter.data += 1
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    other = reranker.layers[0].stream1.state_dict()
    assert all(torch.equal(before[f"layers.0.reading.{k}"], v) for k, v in other.items())


@torch.inference_mode()
def test_z_enters_raw(reranker: Reranker) -> None:
    """No norm comes before the first layer: twice the input is another input."""
    z, ids, candidates = given(2, 3)
    assert (reranker(2 * z, ids, candidates) - reranker(z, ids, candidates)).abs().max() > 1e-2
    padded = z + 9 * (ids == 0)[:, :, None]
    assert (reranker(padded, ids, candidates) - reranker(z, ids, candidates)).abs().max() < 1e-5


def test_everything_learns_but_the_second_output() -> None:
    reranker = two_encoders(2)[0]
    reranker(*given(3, 4)).logsumexp(1).sum().backward()
    flat = [n for n, p in reranker.named_parameters() if p.grad is None or not p.grad.any()]
    assert not flat
    last = reranker.head[2].weight.grad
    assert last is not None
    assert last[0].any()
    assert not last[1].any()


@torch.inference_mode()
@pytest.mark.parametrize("early", [1, 2])
def test_the_early_head_reads_what_fewer_layers_leave(early: int) -> None:
    """It scores as a re-ranker would that ends there, whose merging is by average as well."""
    encoder = stirred(GroundedTextEncoder(config(layers=4)))
    reranker = stirred(Reranker.from_single(encoder, early), 5)
    short = Reranker(config(layers=early))
    for layer in short.layers:
        layer.merge = None
    state = reranker.state_dict()
    head = {k.replace("early_", ""): v for k, v in state.items() if k.startswith("early_head")}
    short.load_state_dict({**{k: state[k] for k in short.state_dict()}, **head})
    asked = given(3, 5)
    got = reranker.early_scores(*asked)
    assert (got - short.eval()(*asked)).abs().max() < 1e-5
    assert got.std() > 1e-2
    both = reranker.depths(*asked)
    assert [s.shape for s in both] == [(3, 5)] * 2
    assert torch.equal(both[0], got)
    assert torch.equal(both[1], reranker(*asked))
    z, ids, candidates = asked
    own = reranker.early_scores(z, ids, candidates[None].expand(3, -1, -1, -1))
    assert (own - got).abs().max() < 1e-5


def test_an_early_head_is_there_where_it_is_wanted(reranker: Reranker) -> None:
    assert not any("early" in name for name in reranker.state_dict())
    with pytest.raises(ConfigError, match="no early head"):
        reranker.early_scores(*given(1, 1))
    with pytest.raises(ConfigError, match="early_layers = 3 of 3 layers"):
        Reranker(config(layers=3), 3)


def test_base_geometry_has_the_papers_parts() -> None:
    """Twelve layers of 768: two of each attention, one feed-forward, six merging Linears."""
    with torch.device("meta"):
        reranker = Reranker(GroundedTextConfig())
    w, inner, norm = 768, 3072, 2 * 768
    attention, mlp = 4 * (w * w + w), 2 * w * inner + inner + w
    layer = 2 * 2 * (attention + norm) + mlp + norm
    merging = 2 * w * w + w
    embedding = (30524 + 512) * w + norm
    wanted = embedding + 12 * layer + 6 * merging + (2 * w * w + w) + (2 * w + 2)
    assert sum(p.numel() for p in reranker.parameters()) == wanted
    assert [layer.merge is None for layer in reranker.layers] == [True] * 6 + [False] * 6


def test_the_graph_is_the_module_at_any_size(tmp_path: Path) -> None:
    reranker = two_encoders(2)[0]
    free = (
        {0: "queries", 1: "length"},
        {0: "queries", 1: "length"},
        {0: "candidates", 1: "places"},
    )
    run = run_exported(reranker, given(2, 3), free, tmp_path)
    for b, k, length, places in ((1, 1, 1, 5), (1, 19, 7, 5), (5, 2, 11, 9)):
        inputs = given(b, k, length, places)
        with torch.inference_mode():
            wanted = reranker(*inputs).numpy()
        assert np.abs(run(*inputs) - wanted).max() < 1e-5
