"""A quantization recipe as a value."""

from __future__ import annotations

from dataclasses import dataclass

from cir_rt.machine import EXACT_INT8, instruction_set, is_arm

METHODS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True, kw_only=True)
class Int8Recipe:
    """Static INT8 for ONNX Runtime on CPUs.

    x86 takes unsigned activations and signed weights (U8S8), Arm takes both signed (S8S8). Where
    an x86 lacks VNNI, pairs of U8S8 products saturate in 16 bits, so weights give up one bit
    (`reduce_range`).
    """

    operators: tuple[str, ...] = ("MatMul", "Gemm")
    signed_activations: bool = False
    reduce_range: bool = False
    per_channel: bool = True
    method: str = "minmax"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got '{self.method}'")
        if not self.operators:
            raise ValueError("operators is empty: nothing would be quantized")


def candidates() -> tuple[Int8Recipe, ...]:
    """Return the recipes worth measuring on this machine: without and with convolutions."""
    exact = instruction_set() in EXACT_INT8
    return tuple(
        Int8Recipe(
            operators=operators,
            signed_activations=is_arm(),
            reduce_range=not (exact or is_arm()),
        )
        for operators in (("MatMul", "Gemm"), ("Conv", "MatMul", "Gemm"))
    )
