"""What every engine is: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor's name, element type, and dimensions: a number, or the name of a free one."""

    name: str
    dtype: str
    shape: tuple[Any, ...]  # int | str


class Engine(Protocol):
    """A compiled graph on one device, owned by one thread."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device: str  # the one that really runs

    def run(
        self,
        inputs: Mapping[str, Any],
        out: Mapping[str, Any] | None = None,
        stream: int | None = None,
    ) -> dict[str, Any]:
        """Return the outputs by name, written into `out` where it is given.

        Arrays are numpy on the CPU and anything with `__cuda_array_interface__` on a GPU; nothing
        is copied that is already where it must be. `stream` is a CUDA stream's handle. Raises
        EngineMismatch for tensors that do not fit the specs.
        """

    def close(self) -> None:
        """Release what the engine holds; it cannot run afterwards."""
