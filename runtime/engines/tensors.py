"""Where an array lies in memory, and whether it fits its spec; the same for every engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cir_rt.engines.protocol import TensorSpec
from cir_rt.errors import EngineMismatch


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A contiguous array as an engine binds it."""

    array: Any  # keeps the memory alive
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    on_gpu: bool

    @property
    def size_bytes(self) -> int:
        """The memory that it takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def input_tensors(
    specs: Sequence[TensorSpec], inputs: Mapping[str, Any], sizes: dict[str, int], *, gpu: bool
) -> dict[str, Tensor]:
    """Return the inputs by name in the order of the specs; `sizes` learns the free dimensions.

    Host arrays that are not contiguous are copied. `gpu` tells whether arrays on a GPU may be
    bound. Raises EngineMismatch for an input that is missing, unknown, or does not fit.
    """
    _check_names("inputs", specs, inputs)
    found = {}
    for spec in specs:
        tensor = _tensor(spec, inputs.get(spec.name), gpu)
        _check_sizes(spec, tensor, sizes)
        found[spec.name] = tensor
    return found


def output_tensors(
    specs: Sequence[TensorSpec], out: Mapping[str, Any], sizes: Mapping[str, int], *, gpu: bool
) -> dict[str, Tensor]:
    """Return the arrays to write into by name, in the order of the specs.

    Raises EngineMismatch for one that is missing, unknown, does not fit, or that the engine
    cannot write straight into: read only, or not contiguous.
    """
    _check_names("out", specs, out)
    found = {}
    for spec in specs:
        array = out.get(spec.name)
        tensor = _tensor(spec, array, gpu)
        _check_sizes(spec, tensor, dict(sizes))
        if tensor.array is not array or not _writable(array):
            raise EngineMismatch(f"out: expected {spec} contiguous and writable. Give another.")
        found[spec.name] = tensor
    return found


def _check_names(what: str, specs: Sequence[TensorSpec], given: Mapping[str, Any]) -> None:
    known = [spec.name for spec in specs]
    if unknown := sorted(set(given) - set(known)):
        raise EngineMismatch(f"unknown {what} {unknown}. Expected: {', '.join(known)}.")


def _check_sizes(spec: TensorSpec, tensor: Tensor, sizes: dict[str, int]) -> None:
    """Hold a shape against its spec and what is known of the free dimensions; learn the rest."""
    known = {d: sizes[d] for d in spec.shape if d in sizes}
    wanted = [known.get(d, d) for d in spec.shape]
    fits = len(wanted) == len(tensor.shape) and all(
        want == have or not isinstance(want, int)
        for want, have in zip(wanted, tensor.shape, strict=True)
    )
    if not fits:
        where = f" where {', '.join(f'{d} = {n}' for d, n in known.items())}" if known else ""
        raise EngineMismatch(f"expected {spec}{where}, got {tensor.dtype} {list(tensor.shape)}.")
    sizes.update(
        {d: n for d, n in zip(spec.shape, tensor.shape, strict=True) if isinstance(d, str)}
    )


def _tensor(spec: TensorSpec, array: Any, gpu: bool) -> Tensor:
    if isinstance(array, np.ndarray):
        tensor = _on_host(array)
    elif gpu and hasattr(array, "__cuda_array_interface__"):
        tensor = _on_gpu(spec, array)
    else:
        kinds = "a numpy array, or one on the GPU" if gpu else "a numpy array"
        raise EngineMismatch(f"expected {spec} as {kinds}, got {type(array).__name__}.")
    if tensor.dtype != np.dtype(spec.dtype):
        raise EngineMismatch(f"expected {spec}, got {tensor.dtype} {list(tensor.shape)}.")
    return tensor


def _on_host(array: np.ndarray) -> Tensor:
    dense = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    address = dense.__array_interface__["data"][0]
    return Tensor(array=dense, address=address, shape=array.shape, dtype=array.dtype, on_gpu=False)


def _on_gpu(spec: TensorSpec, array: Any) -> Tensor:
    """Read https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""
    facts = array.__cuda_array_interface__
    shape, dtype = tuple(facts["shape"]), np.dtype(facts["typestr"])
    strides = facts.get("strides")
    if strides is not None and tuple(strides) != _dense_strides(shape, dtype.itemsize):
        raise EngineMismatch(
            f"expected {spec} contiguous on the GPU, got strides {list(strides)}. Copy it there."
        )
    return Tensor(array=array, address=facts["data"][0], shape=shape, dtype=dtype, on_gpu=True)


def _dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(itemsize * math.prod(shape[k + 1 :]) for k in range(len(shape)))


def _writable(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return array.flags.writeable
    return not array.__cuda_array_interface__["data"][1]
