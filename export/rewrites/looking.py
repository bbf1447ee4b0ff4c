"""Cross-attention on candidates' tokens: as the module computes it, or absorbed by the queries.

Plain: project every token to keys and values, then attend. Absorbed: with X a picture's tokens
(places, width), W_k and W_v a head's projections of keys and values (head width, width),

    q . (W_k x + b_k) = (q W_k) . x + q . b_k        and        sum a (W_v x) = W_v (sum a x)

so that X itself is read, by the heads of all streams in one product, and no token is ever
projected. q . b_k is the same for every token, so softmax does not see it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cir_rt.export.rewrites.graph import Graph
from cir_rt.export.rewrites.products import Products, Rows, Tokens
from cir_rt.export.rewrites.weights import CrossAttention


class Looking(Protocol):
    """How rows look at tokens."""

    def queries(self, asked: str, cross: CrossAttention) -> Rows:
        """Prepare what heads ask, (n, heads, length, head width), for any number of pictures."""

    def seen(self, queries: Rows, tokens: Tokens, cross: CrossAttention) -> str:
        """Return what heads see, (candidates, heads, length, head width)."""


class Plain:
    """Keys and values of every token."""

    def __init__(self, graph: Graph, products: Products) -> None:
        self.graph, self.products = graph, products

    def queries(self, asked: str, cross: CrossAttention) -> Rows:
        """Return what is asked as it is."""
        return Rows(numbers=asked)

    def seen(self, queries: Rows, tokens: Tokens, cross: CrossAttention) -> str:
        """Project the tokens, then attend."""
        g = self.graph
        keys = self._projected(tokens, cross.keys, (0, 2, 3, 1))
        values = self._projected(tokens, cross.values.transpose(0, 2, 1), (0, 2, 1, 3))
        scores = self._scaled(g("MatMul", queries.numbers, keys), tokens)
        weights = self._scaled(g("Softmax", scores, axis=-1), tokens)
        return g("MatMul", weights, values)

    def _projected(self, tokens: Tokens, weights: np.ndarray, order: tuple[int, ...]) -> str:
        heads, width, image_width = weights.shape
        flat = weights.reshape(heads * width, image_width).T
        projected = self.products.projected(tokens, flat)
        return self.graph.transpose(self.graph.reshape(projected, 0, 0, heads, width), *order)

    def _scaled(self, scores: str, tokens: Tokens) -> str:
        """Multiply by the tokens' scales, which their projections wait for."""
        if tokens.scales is None:
            return scores
        return self.graph("Mul", scores, self.graph("Unsqueeze", tokens.scales, np.asarray([1])))


class Absorbed:
    """No keys, no values: queries that ask the tokens themselves."""

    def __init__(self, graph: Graph, products: Products) -> None:
        self.graph, self.products = graph, products

    def queries(self, asked: str, cross: CrossAttention) -> Rows:
        """Return the queries through W_k, (n, heads, length, width of a token)."""
        return self.products.weighted(Rows(numbers=asked), cross.keys)

    def seen(self, queries: Rows, tokens: Tokens, cross: CrossAttention) -> str:
        """Mix tokens, then take the mixtures through W_v."""
        heads, width, _ = cross.values.shape
        together = self._reshaped(queries, 0, -1, width=width)  # (n, heads * length, width)
        scores = self.products.scores(together, tokens)
        mixed = self.products.mixed(self.graph("Softmax", scores, axis=-1), tokens)
        apart = self._reshaped(mixed, 0, heads, -1, width=width)
        return self.products.value(self.products.weighted(apart, cross.values))

    def _reshaped(self, rows: Rows, *sizes: int, width: int) -> Rows:
        """Give rows other axes before their last."""
        numbers = self.graph.reshape(rows.numbers, *sizes, width)
        if rows.scale is None:
            return Rows(numbers=numbers)
        return Rows(numbers=numbers, scale=self.graph.reshape(rows.scale, *sizes, 1))
