"""The products of a re-ranking graph, in floating point or in integers.

Integers: rows that are computed on the way are quantized one by one when they are known, so that no
ranges need measuring and no candidate's score depends on those beside it. Such a row has unsigned
codes around `zero` and one scale; weights have signed codes and one scale a column, a picture's
tokens signed codes and one scale a place, as a gallery stores them (`RowFormat`). ONNX Runtime
multiplies unsigned by signed codes with VNNI; its sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cir_rt.export.rewrites.graph import FLOAT, MICROSOFT, Graph

_TINY = 1e-30  # what a row of zeros is divided by
_SIGNED = 127  # the largest code of weights and tokens


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows (…, width); where `scale` (…, 1) is given they still wait to be multiplied by it."""

    numbers: str
    scale: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Candidates' tokens as products read them; both wait for `scales` where they are given."""

    rows: str  # (candidates, places, width)
    columns: str  # (candidates, width, places)
    scales: str | None = None  # (candidates, 1, places)


class Products(Protocol):
    """How a graph multiplies."""

    def read(self, tokens: str, scales: str | None) -> Tokens:
        """Take tokens (candidates, places, width): codes where `scales` are given, else numbers."""

    def weighted(self, x: Rows, weights: np.ndarray) -> Rows:
        """Return x (…, in) times weights (in, out), or (n, heads, rows, in) head by head."""

    def scores(self, queries: Rows, tokens: Tokens) -> str:
        """Return queries (candidates, rows, width) times columns, scaled: (…, rows, places)."""

    def mixed(self, weights: str, tokens: Tokens) -> Rows:
        """Return tokens mixed with weights (candidates, rows, places) above 0: (…, rows, width)."""

    def projected(self, tokens: Tokens, weights: np.ndarray) -> str:
        """Return rows of tokens times weights (width, out), unscaled: (candidates, places, out)."""

    def value(self, rows: Rows) -> str:
        """Return rows as numbers."""


class FloatProducts:
    """FP32 products; tokens that are stored as codes become numbers first."""

    def __init__(self, graph: Graph, *, reduce_range: bool) -> None:
        """Take the graph to write into; floating point has no range to reduce."""
        self.graph = graph

    def read(self, tokens: str, scales: str | None) -> Tokens:
        """See `Products`."""
        g, rows = self.graph, tokens
        if scales is not None:
            apart = g("Unsqueeze", scales, np.asarray([2]))  # (candidates, places, 1)
            rows = g("Mul", g("Cast", tokens, to=FLOAT), apart)
        return Tokens(rows=rows, columns=g.transpose(rows, 0, 2, 1))

    def weighted(self, x: Rows, weights: np.ndarray) -> Rows:
        """See `Products`."""
        return Rows(numbers=self.graph("MatMul", x.numbers, weights))

    def scores(self, queries: Rows, tokens: Tokens) -> str:
        """See `Products`."""
        return self.graph("MatMul", queries.numbers, tokens.columns)

    def mixed(self, weights: str, tokens: Tokens) -> Rows:
        """See `Products`."""
        return Rows(numbers=self.graph("MatMul", weights, tokens.rows))

    def projected(self, tokens: Tokens, weights: np.ndarray) -> str:
        """See `Products`."""
        return self.graph("MatMul", tokens.rows, weights)

    def value(self, rows: Rows) -> str:
        """See `Products`."""
        return rows.numbers


class IntegerProducts:
    """Integer products, for ONNX Runtime on CPUs."""

    def __init__(self, graph: Graph, *, reduce_range: bool) -> None:
        """Take the graph to write into; a reduced range halves the codes of a row."""
        self.graph = graph
        self.steps = _SIGNED // 2 if reduce_range else _SIGNED  # to either side of a row's zero
        self.zero = np.uint8(self.steps + 1)
        self._quantized: dict[str, tuple[str, str]] = {}

    def read(self, tokens: str, scales: str | None) -> Tokens:
        """See `Products`; tokens that come as numbers are quantized as a gallery would."""
        g, codes = self.graph, tokens
        if scales is None:
            codes, apart = self._codes(tokens, np.int8(0), _SIGNED)
            scales = g("Squeeze", apart, np.asarray([2]))
        return Tokens(
            rows=codes,
            columns=g.transpose(codes, 0, 2, 1),
            scales=g("Unsqueeze", scales, np.asarray([1])),
        )

    def weighted(self, x: Rows, weights: np.ndarray) -> Rows:
        """See `Products`."""
        codes, scale = self._row_codes(x)
        steps = np.maximum(np.abs(weights).max(-2, keepdims=True), _TINY) / _SIGNED
        whole = np.rint(weights / steps).astype(np.int8)
        columns = steps[0] if weights.ndim == 2 else steps
        return Rows(numbers=self._product(codes, whole, columns, self.zero), scale=scale)

    def scores(self, queries: Rows, tokens: Tokens) -> str:
        """See `Products`."""
        codes, scale = self._row_codes(queries)
        numbers = self._product(codes, tokens.columns, tokens.scales, self.zero)
        return self.value(Rows(numbers=numbers, scale=scale))

    def mixed(self, weights: str, tokens: Tokens) -> Rows:
        """See `Products`; nothing is below 0, so that all codes count upwards."""
        scaled = self.graph("Mul", weights, tokens.scales)
        steps = 2 * self.steps + 1
        codes, scale = self._codes(scaled, np.uint8(0), steps, signed=False)
        return Rows(numbers=self._product(codes, tokens.rows, 1.0, np.uint8(0)), scale=scale)

    def projected(self, tokens: Tokens, weights: np.ndarray) -> str:
        """See `Products`."""
        numbers = Rows(numbers=self.graph("Cast", tokens.rows, to=FLOAT))
        return self.value(self.weighted(numbers, weights))

    def value(self, rows: Rows) -> str:
        """See `Products`."""
        return rows.numbers if rows.scale is None else self.graph("Mul", rows.numbers, rows.scale)

    def _row_codes(self, rows: Rows) -> tuple[str, str]:
        """Return codes around `zero`, and scales; rows that are read twice are quantized once."""
        if rows.numbers not in self._quantized:
            codes, scale = self._codes(rows.numbers, self.zero, self.steps)
            if rows.scale is not None:
                scale = self.graph("Mul", scale, rows.scale)
            self._quantized[rows.numbers] = codes, scale
        return self._quantized[rows.numbers]

    def _codes(
        self, x: str, zero: np.generic, steps: int, *, signed: bool = True
    ) -> tuple[str, str]:
        """Return codes of x (…, width) and one scale a row (…, 1)."""
        g, last = self.graph, np.asarray([-1])
        tops = [g("ReduceMax", x, last)]
        if signed:
            tops.append(g("Neg", g("ReduceMin", x, last)))
        scale = g("Mul", g("Max", *tops, _TINY), 1 / steps)
        flat = g("Reshape", scale, last)
        zeros = g("Expand", zero, g("Shape", flat))
        codes = g("QuantizeLinear", g("Flatten", x, axis=-1), flat, zeros, axis=0)
        return g("Reshape", codes, g("Shape", x)), scale

    def _product(self, codes: str, other: str | np.ndarray, scales: object, zero: object) -> str:
        """Return (codes - zero) @ other * scales (…, 1, columns) in FP32."""
        operands = codes, other, 1.0, scales, zero
        return self.graph("MatMulIntegerToFloat", *operands, domain=MICROSOFT)
