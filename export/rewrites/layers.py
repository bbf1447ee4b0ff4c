"""The layers of the text encoders that look at a picture, written as a graph.

A layer has one stream of rows (stage I) or two (stage II), and is post-norm: each stream's rows
read each other, all streams look at the picture and share what they see, each row is mapped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cir_rt.export.rewrites.graph import Graph
from cir_rt.export.rewrites.looking import Looking
from cir_rt.export.rewrites.products import Products, Rows, Tokens
from cir_rt.export.rewrites.weights import CrossAttention, Head, Layer, Linear, Norm, SelfAttention

Streams = Sequence[str]  # (n, length, width) each


class Layers:
    """Writes layers one after the other."""

    def __init__(
        self, graph: Graph, products: Products, looking: Looking, *, heads: int, eps: float
    ) -> None:
        """`heads` are of one stream, `eps` of every LayerNorm."""
        self.graph, self.products, self.looking = graph, products, looking
        self.heads, self.eps = heads, eps

    def attend(self, streams: Streams, layer: Layer, hidden: str, *, first: bool) -> Streams:
        """Let each stream's rows read each other; return the first rows alone where asked."""
        return [
            self._attended(x, self.first(x) if first else x, own, hidden)
            for x, own in zip(streams, layer.own, strict=True)
        ]

    def queries(self, streams: Streams, cross: CrossAttention) -> Rows:
        """Return what the heads of all streams ask of a picture."""
        asked = [
            self._split(self.linear(x, linear))
            for x, linear in zip(streams, cross.queries, strict=True)
        ]
        return self.looking.queries(self._joined(asked, axis=1), cross)

    def look(self, streams: Streams, queries: Rows, tokens: Tokens, layer: Layer) -> Streams:
        """Add what the streams see together to each, and map its rows.

        Streams of one query may ask tokens of many candidates.
        """
        seen = self.looking.seen(queries, tokens, layer.cross)
        shared = self.linear(self._merged(seen), layer.cross.out)
        added = [
            self.norm(self.graph("Add", shared, x), norm)
            for x, norm in zip(streams, layer.cross.norms, strict=True)
        ]
        rows = self._joined(added, axis=0)  # (streams * n, length, width)
        mapped = self.linear(self.gelu(self.linear(rows, layer.up)), layer.down)
        rows = self.norm(self.graph("Add", mapped, rows), layer.norm)
        if len(streams) == 1:
            return [rows]
        return self.graph.several(len(streams), "Split", rows, axis=0, num_outputs=len(streams))

    def judge(self, streams: Streams, head: Head) -> str:
        """Return scores (n,) by the streams' first rows, in FP32."""
        g = self.graph
        both = self._joined([self.first(x) for x in streams], axis=2)
        rows = g.reshape(both, -1, head.up.weight.shape[0])
        up = g("Relu", g("Gemm", rows, head.up.weight, head.up.bias))
        return g.reshape(g("Gemm", up, head.down.weight, head.down.bias), -1)

    def first(self, x: str) -> str:
        """Return the first row of each, (n, 1, width)."""
        return self.graph("Slice", x, np.asarray([0]), np.asarray([1]), np.asarray([1]))

    def linear(self, x: str, linear: Linear) -> str:
        """Return x (…, in) through a Linear."""
        product = self.products.weighted(Rows(numbers=x), linear.weight)
        return self.graph("Add", self.products.value(product), linear.bias)

    def norm(self, x: str, norm: Norm) -> str:
        """Normalise each row."""
        return self.graph("LayerNormalization", x, norm.scale, norm.bias, axis=-1, epsilon=self.eps)

    def gelu(self, x: str) -> str:
        """x / 2 * (1 + erf(x / sqrt 2)), in the operators that engines know for one."""
        g = self.graph
        grown = g("Add", g("Erf", g("Div", x, 2**0.5)), 1.0)
        return g("Mul", g("Mul", x, grown), 0.5)

    def _attended(self, x: str, rows: str, own: SelfAttention, hidden: str) -> str:
        g = self.graph
        queries = self._split(self.linear(rows, own.query))
        both = self._split(self.linear(x, own.keys_values), parts=2)
        keys, values = g.several(2, "Split", both, axis=1, num_outputs=2)
        scores = g("Add", g("MatMul", queries, g.transpose(keys, 0, 1, 3, 2)), hidden)
        read = g("MatMul", g("Softmax", scores, axis=-1), values)
        return self.norm(g("Add", self.linear(self._merged(read), own.out), rows), own.norm)

    def _split(self, x: str, parts: int = 1) -> str:
        """(n, length, parts * width) -> (n, parts * heads, length, head width)."""
        apart = self.graph.reshape(x, 0, 0, parts * self.heads, -1)
        return self.graph.transpose(apart, 0, 2, 1, 3)

    def _merged(self, x: str) -> str:
        """(n, heads, length, head width) -> (n, length, heads * head width)."""
        return self.graph.reshape(self.graph.transpose(x, 0, 2, 1, 3), 0, 0, -1)

    def _joined(self, parts: Sequence[str], *, axis: int) -> str:
        return parts[0] if len(parts) == 1 else self.graph("Concat", *parts, axis=axis)
