"""One execution context of a plan at work: bound tensors, queued work, and its recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cir_rt.engines.protocol import TensorSpec
from cir_rt.engines.staging import Slot
from cir_rt.engines.tensors import Tensor
from cir_rt.errors import DeviceError, EngineMismatch
from cir_rt.kernels.cuda import Device, Graph, Stream


class Run:
    """A context with one profile, and the memory that host tensors pass through.

    Tensors on the GPU are read and written where they are.
    """

    def __init__(
        self,
        gpu: Device,
        engine: Any,
        profile: int,
        outputs: Sequence[TensorSpec],
        stream: Stream,
        log: Any,
    ) -> None:
        """Make the context. Raises DeviceError where there is no memory for it."""
        self._gpu, self._outputs, self._log = gpu, outputs, log
        self._slots: dict[str, Slot] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}  # that the context was told, or told
        self._up: list[Slot] = []
        self._down: list[Slot] = []
        self._context = engine.create_execution_context()
        if self._context is None:
            raise DeviceError(f"{gpu}: no execution context ({log.told()}).")
        self._must(self._context.set_optimization_profile_async(profile, stream.handle), "profile")

    def bind(self, fed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        """Tell the context shapes and addresses; outputs that are not given go to the host.

        Raises EngineMismatch for an output array of another shape than the plan gives.
        """
        self._infer({name: tensor.shape for name, tensor in fed.items()})
        self._up, self._down = [], []
        for name, tensor in fed.items():
            if tensor.on_gpu:
                self._point(name, tensor.address)
            else:
                self._up.append(self._reserve(name, tensor.shape, tensor.dtype))
        for spec in self._outputs:
            target, shape = given.get(spec.name), self._shapes[spec.name]
            if target is not None and target.shape != shape:
                raise EngineMismatch(
                    f"out: expected {spec.name} {list(shape)}, got {list(target.shape)}."
                )
            if target is not None and target.on_gpu:
                self._point(spec.name, target.address)
            else:
                self._down.append(self._reserve(spec.name, shape, np.dtype(spec.dtype)))

    def fill(self, fed: Mapping[str, Tensor]) -> None:
        """Put the host inputs where the queued work reads them."""
        for name, tensor in fed.items():
            if not tensor.on_gpu:
                self._slots[name].view(tensor.shape, tensor.dtype)[...] = tensor.array

    def queue(self, stream: Stream) -> None:
        """Queue copies, the plan, and copies back."""
        for slot in self._up:
            slot.upload(stream)
        self._must(self._context.execute_async_v3(stream.handle), "execution")
        for slot in self._down:
            slot.download(stream)

    def results(self, given: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Write the host outputs into `given`, or return them fresh where it is empty."""
        found = {}
        for spec in self._outputs:
            tensor = given.get(spec.name)
            if tensor is not None and tensor.on_gpu:
                continue
            view = self._slots[spec.name].view(self._shapes[spec.name], np.dtype(spec.dtype))
            if tensor is None:
                found[spec.name] = view.copy()
            else:
                tensor.array[...] = view
        return found

    def close(self) -> None:
        """Free context and memory."""
        self._context = None
        for slot in self._slots.values():
            slot.free()

    def _infer(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if all(self._shapes.get(name) == shape for name, shape in shapes.items()):
            return
        for name, shape in shapes.items():
            self._must(self._context.set_input_shape(name, shape), f"{name} {list(shape)}")
        if missing := self._context.infer_shapes():
            raise EngineMismatch(f"TensorRT knows no shape of {', '.join(missing)}.")
        for spec in self._outputs:
            shapes[spec.name] = tuple(self._context.get_tensor_shape(spec.name))
        self._shapes = shapes

    def _reserve(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Slot:
        slot = self._slots.setdefault(name, Slot(self._gpu))
        slot.reserve(max(1, int(np.prod(shape)) * dtype.itemsize))
        self._point(name, slot.address)
        return slot

    def _point(self, name: str, address: int) -> None:
        self._must(self._context.set_tensor_address(name, address), f"the address of {name}")

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise DeviceError(f"{self._gpu}: TensorRT refused {what} ({self._log.told()}).")


class Captured:
    """A run that is recorded once and replayed: same shapes, same addresses."""

    def __init__(self, run: Run, stream: Stream) -> None:
        """Warm the filled run up, as TensorRT asks for, and record it on the engine's stream."""
        self._run = run
        run.queue(stream)
        stream.synchronize()
        with stream.capture() as graph:
            run.queue(stream)
        self._graph: Graph = graph

    def fill(self, fed: Mapping[str, Tensor]) -> None:
        """Put the host inputs where the graph reads them."""
        self._run.fill(fed)

    def queue(self, stream: Stream) -> None:
        """Queue the graph."""
        self._graph.launch(stream)

    def results(self, given: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Write the host outputs into `given`, or return them fresh where it is empty."""
        return self._run.results(given)

    def close(self) -> None:
        """Free graph, context and memory."""
        self._graph.close()
        self._run.close()
