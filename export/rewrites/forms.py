"""A re-ranker's graphs in the forms that a build may choose from.

| role | reads | gives |
| --- | --- | --- |
| `rerank_query` | `ids` (1, length), `reference` (1, places, width) | the query's state: `STATE` |
| `rerank` | the state, the candidates' `tokens` and, where those are codes, `scales` | `scores` |
| `rerank_early` | the same | the early head's `scores`, and the streams so far: `CARRIED` |
| `rerank_late` | the same, and `CARRIED` of the candidates that go on | `scores`, as `rerank`'s |

Stage I, the embeddings, the first self-attention and what the first layer asks of a picture depend
on the query alone and are computed once. Of the last layer only the first rows are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cir_rt.errors import ConfigError, UsageError
from cir_rt.export.rewrites.graph import FLOAT, INT8, INT64, Graph
from cir_rt.export.rewrites.layers import Layers, Streams
from cir_rt.export.rewrites.looking import Absorbed, Plain
from cir_rt.export.rewrites.products import FloatProducts, IntegerProducts, Rows, Tokens
from cir_rt.export.rewrites.weights import RerankWeights

if TYPE_CHECKING:
    from cir_rt.export.models.systems import RerankModel

# form -> how candidates' tokens are looked at, how products are computed
FORMS: dict[
    str, tuple[type[Plain] | type[Absorbed], type[FloatProducts] | type[IntegerProducts]]
] = {
    "plain": (Plain, FloatProducts),
    "absorbed": (Absorbed, FloatProducts),
    "absorbed-int8": (Absorbed, IntegerProducts),
    "plain-int8": (Plain, IntegerProducts),
}
TOKENS = ("float", "int8")
STATE = ("stream0", "stream1", "hidden", "queries")
CARRIED = ("carried_stream0", "carried_stream1")

_HIDDEN = -1e4  # added to the scores of padding


def write_rerank_graphs(
    model: RerankModel | RerankWeights,
    out: Path,
    *,
    form: str,
    early: bool,
    tokens: str = "int8",
    reduce_range: bool = False,
) -> dict[str, Path]:
    """Write a form's graphs, weights inside, into the folder `out`; return them by role.

    `early` adds the two halves of a cascade. `tokens` says what the candidates' are: "int8" as a
    gallery stores them, or "float". `reduce_range` takes a bit off quantized rows, for x86 without
    VNNI, where pairs of products saturate in 16 bits. Raises UsageError for an unknown form,
    ConfigError where a cascade is asked of a model without an early head.
    """
    if form not in FORMS or tokens not in TOKENS:
        raise UsageError(
            f"no form '{form}' of tokens '{tokens}'. "
            f"Known forms: {', '.join(FORMS)}; tokens: {', '.join(TOKENS)}."
        )
    weights = model if isinstance(model, RerankWeights) else RerankWeights.of(model)
    if early and not weights.early_layers:
        raise ConfigError(
            "a cascade needs an early head, this re-ranker has none. Train one: early_layers = 1 "
            "in the recipe rerank."
        )
    writer = _Writer(weights=weights, form=form, tokens=tokens, reduce_range=reduce_range)
    last, cut = weights.shape.layers, weights.early_layers
    parts = {"rerank": (0, last)}
    if early:
        parts |= {"rerank_early": (0, cut), "rerank_late": (cut, last)}
    paths = {role: out / f"{role}.onnx" for role in ("rerank_query", *parts)}
    writer.query().write(paths["rerank_query"])
    for role, (start, stop) in parts.items():
        writer.part(start, stop).write(paths[role])
    return paths


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """One form of one model."""

    weights: RerankWeights
    form: str
    tokens: str
    reduce_range: bool

    def query(self) -> Graph:
        """Write what is computed once for a query."""
        g = Graph()
        layers, shape = self._layers(g), self.weights.shape
        ids = g.input("ids", INT64, [1, "length"])
        tokens = layers.products.read(
            g.input("reference", FLOAT, [1, "places", shape.image_width]), None
        )
        marked = g("Concat", np.full((1, 1), shape.enc_id), _after_first(g, ids), axis=1)
        padding = g("Equal", marked, np.int64(shape.pad_id))
        hidden = g("Unsqueeze", g("Where", padding, _HIDDEN, 0.0), np.asarray([1, 2]))
        z = self._read(layers, self._embedded(layers, marked, "text.encoder"), hidden, tokens)
        first = self.weights.layers[0]
        streams: Streams = [*z, self._embedded(layers, marked, "rerank")]
        streams = layers.attend(streams, first, hidden, first=shape.layers == 1)
        queries = layers.products.value(layers.queries(streams, first.cross))
        for name, tensor in zip(STATE, (*streams, hidden, queries), strict=True):
            g.output(name, tensor, FLOAT, self._shape(name))
        return g

    def part(self, start: int, stop: int) -> Graph:
        """Write layers of stage II, with the head behind them."""
        g = Graph()
        layers, shape = self._layers(g), self.weights.shape
        x0, x1, hidden, queries = (g.input(name, FLOAT, self._shape(name)) for name in STATE)
        tokens = self._candidates(g, layers)
        streams: Streams = [x0, x1]
        if start:
            streams = [g.input(name, FLOAT, self._shape(name)) for name in CARRIED]
        for k in range(start, stop):
            layer = self.weights.layers[k]
            asked = Rows(numbers=queries)
            if k:
                streams = layers.attend(streams, layer, hidden, first=k + 1 == shape.layers)
                asked = layers.queries(streams, layer.cross)
            streams = layers.look(streams, asked, tokens, layer)
        whole = stop == shape.layers
        head = self.weights.head if whole else self.weights.early_head
        g.output("scores", layers.judge(streams, head), FLOAT, ["candidates"])
        if not whole:
            for name, tensor in zip(CARRIED, streams, strict=True):
                g.output(name, tensor, FLOAT, self._shape(name))
        return g

    def _layers(self, graph: Graph) -> Layers:
        looking, products = FORMS[self.form]
        multiply = products(graph, reduce_range=self.reduce_range)
        shape = self.weights.shape
        return Layers(graph, multiply, looking(graph, multiply), heads=shape.heads, eps=shape.eps)

    def _embedded(self, layers: Layers, ids: str, encoder: str) -> str:
        """Return words and positions of ids (1, length), normalised: (1, length, width)."""
        g, name = layers.graph, f"{encoder}.embedding"
        words = g("Gather", self.weights.array(f"{name}.words.weight"), ids)
        length = g("Shape", ids, start=1, end=2)
        places = self.weights.array(f"{name}.positions.weight")
        positions = g("Slice", places, np.asarray([0]), length, np.asarray([0]))
        return layers.norm(g("Add", words, positions), self.weights.norm(f"{name}.norm"))

    def _read(self, layers: Layers, x: str, hidden: str, tokens: Tokens) -> Streams:
        """Read words beside the reference: z_t, (1, length, width)."""
        streams: Streams = [x]
        for layer in self.weights.reading:
            streams = layers.attend(streams, layer, hidden, first=False)
            streams = layers.look(streams, layers.queries(streams, layer.cross), tokens, layer)
        return streams

    def _candidates(self, graph: Graph, layers: Layers) -> Tokens:
        shape: list[int | str] = ["candidates", "places", self.weights.shape.image_width]
        if self.tokens == "float":
            return layers.products.read(graph.input("tokens", FLOAT, shape), None)
        codes = graph.input("tokens", INT8, shape)
        return layers.products.read(codes, graph.input("scales", FLOAT, shape[:2]))

    def _shape(self, name: str) -> Sequence[int | str]:
        """Return the shape of a part of the state, or of what is carried."""
        shape = self.weights.shape
        rows = "length" if shape.layers > 1 else 1  # the only layer needs first rows alone
        if name == "hidden":
            return [1, 1, 1, "length"]
        if name in CARRIED:
            return ["candidates", "length", shape.width]
        if name != "queries":
            return [1, rows, shape.width]
        plain = FORMS[self.form][0] is Plain
        width = shape.width // shape.heads if plain else shape.image_width
        return [1, 2 * shape.heads, rows, width]


def _after_first(graph: Graph, ids: str) -> str:
    """Return ids (1, length) from the second on."""
    end = np.asarray([np.iinfo(np.int64).max])
    return graph("Slice", ids, np.asarray([1]), end, np.asarray([1]))
