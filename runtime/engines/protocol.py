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

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


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
        """Return the outputs by name: `out` itself where it is given, else fresh numpy arrays.

        Arrays are numpy, and on a GPU anything with `__cuda_array_interface__` too, each for
        itself; nothing is copied that is already where it must be. Equal names of free dimensions
        stand for equal sizes. `stream` is the handle of the CUDA stream to work on: inputs need be
        ready on it alone, and where every array is on the GPU the call may return before they are
        done. Without it the call returns when all is done. Raises EngineMismatch for tensors that
        do not fit the specs, a stream that the engine cannot work on, and a closed engine.
        """

    def close(self) -> None:
        """Release what the engine holds; it cannot run afterwards. A second call does nothing."""
