"""From a checkpoint to ONNX graphs over the checkpoint's own weight file.

The graphs folder is the checkpoint's (config.json, model.safetensors, tokenizer.json, calibration/)
plus {role}.onnx. The graphs hold no weights: their initializers point into model.safetensors,
and where that is in half precision a Cast follows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from onnx import helper, numpy_helper
from onnxscript import optimizer
from torch import Tensor, nn

from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import CALIBRATION, TOKENIZER, WEIGHTS, Checkpoint
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.models.storage import load_model, save_model
from cir_rt.export.models.systems import CirModel
from cir_rt.export.samples import read_samples

OPSET = 18
TOLERANCE = 1e-4  # largest difference between graph and PyTorch on unit vectors

_DTYPES = {"F32": onnx.TensorProto.FLOAT, "F16": onnx.TensorProto.FLOAT16}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest difference between a graph and its PyTorch module."""

    random_inputs: float
    real_inputs: float | None  # None where the checkpoint carries no calibration inputs


def export_graphs(checkpoint: Checkpoint, out: Path, *, half: bool = False) -> dict[str, Parity]:
    """Write the graphs folder and hold each graph against PyTorch; return the differences.

    `half` stores the weights in FP16. Raises CheckpointError for a system that no bundle serves
    yet, and where a graph strays from PyTorch by more than 1e-4 on any input.
    """
    if checkpoint.config.system != "progressive":
        raise CheckpointError(
            f"{checkpoint.folder}: a checkpoint of {checkpoint.config.system}. Bundles serve the "
            "progressive system alone so far; others can be trained and evaluated."
        )
    model = load_model(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    _copy_calibration(checkpoint.folder, out)
    save_model(model, checkpoint.folder / TOKENIZER, out, torch.float16 if half else torch.float32)
    stored = load_model(Checkpoint(folder=out, config=checkpoint.config))  # rounded as on disk
    parity = {}
    for role, example in _examples(stored).items():
        path = out / f"{role}.onnx"
        _export(getattr(stored, role), role, example, out / WEIGHTS, path)
        parity[role] = _compare(stored, role, path, out)
    return parity


def _examples(model: CirModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = model.config.preprocess.size
    top: Any = model.text.vocabulary
    length = min(7, model.config.context)
    return {
        "image": torch.randn(2, 3, size, size, generator=generator),
        "text": torch.randint(1, int(top), (2, length), generator=generator),
    }


def _export(tower: nn.Module, role: str, example: Tensor, weights: Path, path: Path) -> None:
    name = {"image": "pixels", "text": "ids"}[role]
    free = {0: "batch", 1: "length"} if role == "text" else {0: "batch"}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            tower,
            (example,),
            dynamo=True,
            input_names=[name],
            output_names=["vector"],
            dynamic_shapes=(free,),
            opset_version=OPSET,
            optimize=False,  # full optimization folds weights into new ones that nothing shares
            verbose=False,
        )
    if program is None:
        raise CheckpointError(f"{role}: PyTorch's exporter returned no graph.")
    optimizer.fold_constants(program.model, input_size_limit=16, output_size_limit=16)
    optimizer.remove_unused_nodes(program.model)
    model = onnx_ir.to_proto(program.model)
    _share_weights(model, f"{role}.", weights)
    for node in model.graph.node:  # the exporter's notes on where each node came from
        del node.metadata_props[:]
    path.write_bytes(model.SerializeToString())


def _share_weights(model: onnx.ModelProto, prefix: str, weights: Path) -> None:
    """Replace initializers by references into the safetensors file, cast and turned as needed."""
    stored = _entries(weights)
    turned = {
        (tuple(shape[::-1]), _digest(_read(weights, stored[key]).T)): key
        for key, (_, shape, _, _) in stored.items()
        if key.startswith(prefix) and len(shape) == 2
    }
    kept, nodes = [], []
    external: dict[str, onnx.TensorProto] = {}
    for tensor in model.graph.initializer:
        key, transpose = prefix + tensor.name, False
        if key not in stored:
            key = turned.get((tuple(tensor.dims), _digest(numpy_helper.to_array(tensor))), "")
            transpose = True
        if not key:
            kept.append(tensor)
            continue
        external.setdefault(key, _reference(key, stored[key], weights.name))
        nodes += _restored(key, stored[key][0], tensor.name, transpose)
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *external.values()])
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


Entry = tuple[str, tuple[int, ...], int, int]  # dtype, shape, offset in the file, length in bytes


def _entries(weights: Path) -> dict[str, Entry]:
    """Read a safetensors header: 8 bytes of length, then JSON, then the data."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: Mapping = json.loads(file.read(length))
    start = 8 + length
    return {
        key: (
            e["dtype"],
            tuple(e["shape"]),
            start + e["data_offsets"][0],
            e["data_offsets"][1] - e["data_offsets"][0],
        )
        for key, e in header.items()
        if key != "__metadata__"
    }


def _read(weights: Path, entry: Entry) -> np.ndarray:
    dtype, shape, offset, length = entry
    kind = np.float16 if dtype == "F16" else np.float32
    count = length // np.dtype(kind).itemsize
    data = np.fromfile(weights, kind, count, offset=offset)
    return data.reshape(shape).astype(np.float32)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).digest()


def _reference(key: str, entry: Entry, location: str) -> onnx.TensorProto:
    dtype, shape, offset, length = entry
    tensor = onnx.TensorProto(
        name=f"{key}.stored",
        data_type=_DTYPES[dtype],
        dims=shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for name, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=name, value=str(value))
    return tensor


def _restored(key: str, dtype: str, name: str, transpose: bool) -> list[onnx.NodeProto]:
    """Return the nodes that turn a stored tensor into the initializer that it stands for."""
    cast_to = f"{name}.cast" if transpose else name
    nodes = [
        helper.make_node(
            "Cast" if dtype == "F16" else "Identity",
            [f"{key}.stored"],
            [cast_to],
            **({"to": onnx.TensorProto.FLOAT} if dtype == "F16" else {}),
        )
    ]
    if transpose:
        nodes.append(helper.make_node("Transpose", [cast_to], [name], perm=[1, 0]))
    return nodes


def _compare(model: CirModel, role: str, path: Path, out: Path) -> Parity:
    """Run graph and module on random and real inputs. Raises CheckpointError over the limit."""
    engine = OnnxRuntimeEngine(path)
    tower = getattr(model, role)

    def difference(inputs: np.ndarray) -> float:
        got = engine.run({engine.inputs[0].name: inputs})["vector"]
        with torch.inference_mode():
            return float(np.abs(got - tower(torch.from_numpy(inputs)).numpy()).max())

    rng = np.random.default_rng(1)
    random: np.ndarray
    if role == "image":
        size = model.config.preprocess.size
        random = rng.standard_normal((5, 3, size, size), np.float32)
    else:
        random = rng.integers(1, int(tower.vocabulary), (5, model.config.context))
    real = [difference(inputs) for inputs in _real_inputs(model, role, out)]
    result = Parity(random_inputs=difference(random), real_inputs=max(real, default=None))
    worst = max(result.random_inputs, result.real_inputs or 0.0)
    if not worst <= TOLERANCE:
        for graph in out.glob("*.onnx"):
            graph.unlink()
        raise CheckpointError(
            f"{role}: the graph differs from PyTorch by {worst:.2e}, the limit is {TOLERANCE:g}."
        )
    return result


def _real_inputs(model: CirModel, role: str, folder: Path) -> list[np.ndarray]:
    """Return the calibration inputs that the folder carries, in batches."""
    if not (folder / CALIBRATION).exists():
        return []
    checkpoint = Checkpoint(folder=folder, config=model.config)
    samples = read_samples(
        open_dataset(folder / CALIBRATION), model.config.preprocess, checkpoint.tokenizer()
    )
    return [next(iter(feed.values())) for feed in samples.feeds(role)]


def _copy_calibration(source: Path, out: Path) -> None:
    if (source / CALIBRATION).exists() and source.resolve() != out.resolve():
        shutil.copytree(source / CALIBRATION, out / CALIBRATION, dirs_exist_ok=True)
