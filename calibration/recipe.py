"""A quantization recipe as a value."""

from __future__ import annotations

from dataclasses import dataclass

from cir_rt.machine import EXACT_INT8, instruction_set, is_arm

# What a graph's products are computed in, by the name that bundles and `--precision` use.
FORMATS = {"u8s8": "int8", "s8s8": "int8", "fp8": "fp8", "fp16": "fp16"}
METHODS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an FP32 graph becomes a quantized one, for one kind of target.

    `u8s8` is for ONNX Runtime on x86: unsigned activations, signed weights. Where an x86 lacks
    VNNI, pairs of such products saturate in 16 bits, so weights give up one bit (`reduce_range`).
    `s8s8` is symmetric, every zero point 0: ONNX Runtime on Arm, and TensorRT. `fp8` is E4M3
    Q/DQ, for TensorRT on GPUs that have it. `fp16` has casts in the graph and no Q/DQ at all.
    """

    format: str = "u8s8"
    operators: tuple[str, ...] = ("MatMul", "Gemm")  # those that are quantized
    keep: tuple[str, ...] = ()  # nodes given back: not quantized, or FP32 in an `fp16` graph
    reduce_range: bool = False
    per_channel: bool = True
    method: str = "minmax"
    smooth: float | None = None  # SmoothQuant's strength, 0 to 1
    half: bool = False  # what is not quantized is FP16, as TensorRT's strong typing wants it
    bias: bool = True  # biases as INT32 Q/DQ too, which TensorRT does not read

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got '{self.format}'")
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got '{self.method}'")
        if not self.operators:
            raise ValueError("operators is empty: nothing would be quantized")
        if self.smooth is not None and not 0 <= self.smooth <= 1:
            raise ValueError(f"smooth must be from 0 to 1, got {self.smooth:g}")
        if self.reduce_range and self.format != "u8s8":
            raise ValueError(f"reduce_range is for u8s8 alone, not for {self.format}")

    @property
    def precision(self) -> str:
        """The name that the manifest gives it."""
        return FORMATS[self.format]

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is 0."""
        return self.format != "u8s8"

    def __str__(self) -> str:
        parts = [self.precision, *([] if self.format == "fp16" else self.operators)]
        if self.smooth is not None:
            parts.append(f"smooth {self.smooth:g}")
        if self.keep:
            parts.append(f"{len(self.keep)} kept")
        return "+".join(parts)


def candidates() -> tuple[Recipe, ...]:
    """Return the INT8 recipes worth measuring on this CPU: without and with convolutions."""
    exact = instruction_set() in EXACT_INT8
    return tuple(
        Recipe(
            format="s8s8" if is_arm() else "u8s8",
            operators=operators,
            reduce_range=not (exact or is_arm()),
        )
        for operators in (("MatMul", "Gemm"), ("Conv", "MatMul", "Gemm"))
    )


def tensorrt_candidates(precision: str) -> tuple[Recipe, ...]:
    """Return the recipes for TensorRT of a precision: fp16, int8 or fp8."""
    if precision == "fp16":
        return (Recipe(format="fp16", half=True),)
    if precision == "fp8":
        return (Recipe(format="fp8", half=True, bias=False),)
    operators = ("Conv", "MatMul", "Gemm")
    return (Recipe(format="s8s8", operators=operators, half=True, bias=False),)
