"""The fused weighted composition on a GPU: one launch of compose.cu."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from cir_rt.errors import UsageError
from cir_rt.kernels.cuda import Device, DeviceArray, Module, Stream
from cir_rt.kernels.operand import Operand, operand
from cir_rt.kernels.reference import Gate

MAX_WIDTH, MAX_BATCH = 1024, 256

_THREADS, _WARPS = 256, 8
_NAMES = {np.dtype("f4"): "f32", np.dtype("f2"): "f16"}
_GROUPED = 4  # queries of a block, from _ALONE queries on
_ALONE = 8
_WEIGHTS = ("hidden_weight", "hidden_bias", "gate_weight", "gate_bias")


class Arguments(ctypes.Structure):
    """ComposeArguments of compose.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("v", "u", "weight", "hidden_weight")),
        *((name, ctypes.c_void_p) for name in ("hidden_bias", "gate_weight", "gate_bias")),
        *((name, ctypes.c_void_p) for name in ("parts", "arrivals", "query", "weights")),
        *((name, ctypes.c_void_p) for name in ("half", "codes", "scales", "signs")),
        ("v_stride", ctypes.c_int64),
        ("u_stride", ctypes.c_int64),
        ("temperature", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("batch", "width", "padded")),
        *((name, ctypes.c_int) for name in ("half_stride", "code_stride", "sign_stride")),
    ]


@dataclass(frozen=True, kw_only=True)
class Composed:
    """Queries on the GPU in the forms that searches take; None where a form is not wanted."""

    query: Any  # (batch, width) float32
    weights: Any  # (batch, 2) float32: picture, words
    half: Any = None  # (batch, width or more) float16, zeros behind width
    codes: Any = None  # (batch, width or more) int8, query = code * scale
    scales: Any = None  # (batch,) float32, with codes
    signs: Any = None  # (batch, words) uint32, as `reference.sign_bits`

    @classmethod
    def allocate(
        cls,
        device: Device,
        batch: int,
        width: int,
        *,
        half: bool = False,
        codes: bool = False,
        signs: bool = False,
    ) -> Composed:
        """Return room for a batch in the forms asked for. Raises DeviceError."""

        def room(shape: tuple[int, ...], dtype: str) -> DeviceArray:
            size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            return DeviceArray(device.allocate(size_bytes), shape, dtype)

        words = -(-width // 128) * 4
        return cls(
            query=room((batch, width), "<f4"),
            weights=room((batch, 2), "<f4"),
            half=room((batch, width), "<f2") if half else None,
            codes=room((batch, width), "|i1") if codes else None,
            scales=room((batch,), "<f4") if codes else None,
            signs=room((batch, words), "<u4") if signs else None,
        )


class Compose:
    """Turns pictures' and words' vectors into queries; the gate's weights stay on the GPU.

    NOTE: the scratch memory is one launch's: calls on two streams must not overlap.
    """

    def __init__(self, device: Device, module: Module, gate: Gate, *, batch: int) -> None:
        """Bring the gate to the GPU, for up to `batch` queries. Raises UsageError, DeviceError."""
        self.width, self.batch = len(gate.hidden_bias), batch
        if not 0 < self.width <= MAX_WIDTH or not 0 < batch <= MAX_BATCH:
            raise UsageError(
                f"width {self.width} and batch {batch}. Expected up to {MAX_WIDTH} and {MAX_BATCH}."
            )
        self._padded = -(-2 * self.width // 4) * 4
        hidden = np.zeros((self.width, self._padded), np.float32)
        hidden[:, : 2 * self.width] = gate.hidden_weight
        weights = (hidden, gate.hidden_bias, gate.gate_weight, gate.gate_bias)
        self._gate = [device.upload(np.asarray(x, np.float32)) for x in weights]
        self._temperature = gate.temperature
        self._blocks = 2 * device.multiprocessors
        parts = (batch + self._blocks) * _GROUPED * 2
        self._parts = device.allocate(4 * parts)
        self._arrivals = device.upload(np.zeros(batch, np.uint32))
        names = [f"compose_{kind}_{each}" for kind in _NAMES.values() for each in (1, _GROUPED)]
        self._functions = {name: module.function(name) for name in names}

    def __call__(self, v: Any, u: Any, out: Composed, stream: Stream, weight: Any = None) -> None:
        """Queue the composition of (n, width) pictures and words into `out`, whose batch is n.

        v and u are both float32 or both float16, their rows as far apart as they like. `weight`
        (n,) float32 replaces the gate's weight of the picture; where it is NaN the gate decides.
        Raises UsageError for what does not fit. Nothing is allocated and nothing waited for.
        """
        picture = operand(v, "v", list(_NAMES), columns=self.width)
        words = operand(u, "u", [picture.dtype], rows=picture.rows, columns=self.width)
        rows = picture.rows
        if not 0 < rows <= self.batch:
            raise UsageError(f"{rows} queries. Expected 1 to {self.batch}.")
        each = 1 if rows <= _ALONE else _GROUPED
        groups = -(-rows // each)
        slices = max(1, min(-(-self.width // _WARPS), self._blocks // groups))
        arguments = self._arguments(picture, words, out, weight)
        self._functions[f"compose_{_NAMES[picture.dtype]}_{each}"].launch(
            stream,
            arguments,
            grid=(slices, groups),
            threads=_THREADS,
            shared_bytes=4 * each * (self._padded + 2 * _WARPS) + 16,
        )

    def _arguments(self, v: Operand, u: Operand, out: Composed, weight: Any) -> Arguments:
        rows, width = v.rows, self.width

        def room(array: Any, name: str, dtype: str, columns: int | None) -> Operand:
            return operand(array, name, [dtype], rows=rows, columns=columns, gaps=False)

        found = Arguments(
            v=v.address,
            u=u.address,
            v_stride=v.stride,
            u_stride=u.stride,
            parts=self._parts.address,
            arrivals=self._arrivals.buffer.address,
            query=room(out.query, "out.query", "<f4", width).address,
            weights=room(out.weights, "out.weights", "<f4", 2).address,
            temperature=self._temperature,
            batch=rows,
            width=width,
            padded=self._padded,
        )
        for name, array in zip(_WEIGHTS, self._gate, strict=True):
            setattr(found, name, array.buffer.address)
        if weight is not None:
            found.weight = room(weight, "weight", "<f4", 1).address
        if out.half is not None:
            half = room(out.half, "out.half", "<f2", None)
            found.half, found.half_stride = half.address, _wide(half, width, "out.half")
        if out.codes is not None:
            codes = room(out.codes, "out.codes", "|i1", None)
            found.codes, found.code_stride = codes.address, _wide(codes, width, "out.codes")
            found.scales = room(out.scales, "out.scales", "<f4", 1).address
        if out.signs is not None:
            signs = room(out.signs, "out.signs", "<u4", None)
            words = _wide(signs, -(-width // 32), "out.signs")
            found.signs, found.sign_stride = signs.address, words
        return found


def _wide(form: Operand, least: int, name: str) -> int:
    """Return the width of an output, all of which is written. Raises UsageError."""
    if form.columns < least:
        raise UsageError(f"{name} has rows of {form.columns}. Expected {least} or more.")
    return form.columns
