"""Runs of an ONNX Runtime session on CUDA that are recorded once a shape and then replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cir_rt.engines.protocol import TensorSpec
from cir_rt.engines.tensors import Tensor
from cir_rt.errors import EngineMismatch

MOST_RUNS = 32  # the session keeps each recorded run's memory until it is closed


@dataclass(frozen=True, kw_only=True)
class _Captured:
    """One recorded run: what it reads and writes stays where it is."""

    binding: Any
    options: Any
    inputs: Mapping[str, Any]  # the device's copies of host inputs
    outputs: Mapping[str, Any]  # the device's copies of outputs that go to the host


class CapturedRuns:
    """The recorded runs of one session, by the shapes and by the GPU addresses they work on.

    A graph reads and writes where it did when it was recorded: host arrays pass through buffers
    of its own, arrays on the GPU are used where they are. So a caller who keeps his arrays on the
    GPU in place has nothing copied, and one who moves them has each place recorded anew.
    """

    def __init__(self, ort: Any, session: Any, number: int) -> None:
        """Record runs of a session that was opened with `enable_cuda_graph` on GPU `number`."""
        self._ort, self._session, self._number = ort, session, number
        self._runs: dict[tuple[Any, ...], _Captured] = {}

    def takes(self, fed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
        """Tell whether this run is recorded, or may be: not an empty one, nor more than 32."""
        known = _key(fed, given) in self._runs
        return known or (
            len(self._runs) < MOST_RUNS and all(0 not in t.shape for t in fed.values())
        )

    def run(
        self,
        fed: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        outputs: Sequence[TensorSpec],
        sizes: Mapping[str, int],
    ) -> dict[str, Any]:
        """Write into `given`, or return fresh numpy arrays by name where it is empty.

        Raises EngineMismatch where an output's size is neither known from the inputs nor given.
        """
        key = _key(fed, given)
        if key not in self._runs:
            self._runs[key] = self._record(fed, given, outputs, sizes)
        captured = self._runs[key]
        for name, buffer in captured.inputs.items():
            buffer.update_inplace(fed[name].array)
        self._session.run_with_iobinding(captured.binding, captured.options)
        found = {name: buffer.numpy() for name, buffer in captured.outputs.items()}
        for name, array in found.items():
            if name in given:
                np.copyto(given[name].array, array)
        return found

    def _record(
        self,
        fed: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        outputs: Sequence[TensorSpec],
        sizes: Mapping[str, int],
    ) -> _Captured:
        """Bind buffers that stay; the session warms up and records on the first run of an id."""
        binding, own_inputs, own_outputs = self._session.io_binding(), {}, {}
        for name, tensor in fed.items():
            if tensor.on_gpu:
                binding.bind_input(
                    name, "cuda", self._number, tensor.dtype.type, tensor.shape, tensor.address
                )
            else:
                own_inputs[name] = self._ort.OrtValue.ortvalue_from_numpy(
                    tensor.array, "cuda", self._number
                )
                binding.bind_ortvalue_input(name, own_inputs[name])
        for spec in outputs:
            target = given.get(spec.name)
            if target is not None and target.on_gpu:
                binding.bind_output(
                    spec.name, "cuda", self._number, target.dtype.type, target.shape, target.address
                )
            else:
                shape = target.shape if target is not None else _shape(spec, sizes)
                own_outputs[spec.name] = self._ort.OrtValue.ortvalue_from_shape_and_type(
                    shape, np.dtype(spec.dtype).type, "cuda", self._number
                )
                binding.bind_ortvalue_output(spec.name, own_outputs[spec.name])
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(self._runs) + 1))
        return _Captured(binding=binding, options=options, inputs=own_inputs, outputs=own_outputs)


def _key(fed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Return what fixes a recorded run: every shape, and every address that is not its own."""
    return tuple(
        tuple((name, t.shape, t.address if t.on_gpu else None) for name, t in group.items())
        for group in (fed, given)
    )


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = tuple(sizes.get(d) if isinstance(d, str) else d for d in spec.shape)
    if None in shape:
        raise EngineMismatch(f"the size of {spec} is not known beforehand. Give it as out=.")
    return shape  # type: ignore[return-value]
