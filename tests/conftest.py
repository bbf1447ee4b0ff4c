"""What all tests share: drawn pictures, a tiny model in plain ONNX, its bundle and gallery."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

DIM, SIZE, PATCH, CHANNELS, PIECES = 32, 32, 8, 16, 400


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real data that CIR_RT_DATA names."""
    folder = os.environ.get("CIR_RT_DATA")
    if not folder:
        pytest.skip("CIR_RT_DATA is not set: no real data here")
    return Path(folder)


@pytest.fixture(scope="session")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset folder of drawn garments: 24 pictures to rank for each article."""
    from cir_rt.export.data.garments import write

    folder = tmp_path_factory.mktemp("garments")
    counts = {"train": 40, "val": 24}, {"train": 40, "val": 12}
    write(folder, pictures=counts[0], queries=counts[1], workers=1)
    return folder


@pytest.fixture(scope="session")
def graphs(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a graphs folder of an untrained model, made without torch."""
    folder = tmp_path_factory.mktemp("model") / "graphs"
    write_graphs(folder, garments)
    return folder


@pytest.fixture(scope="session")
def bundle(graphs: Path) -> Path:
    """Return an FP32 bundle of the graphs; copy it before changing a byte."""
    from cir_rt.export.build import BuildOptions, build_engine

    folder = graphs.parent / "garments.cir"
    build_engine(graphs, folder, BuildOptions(precision="fp32", threads=1))
    return folder


@pytest.fixture(scope="session")
def gallery(bundle: Path, garments: Path) -> Path:
    """Return a gallery of the 144 pictures to rank; ids are file names without suffix."""
    from cir_rt.gallery.indexing import Source
    from cir_rt.retriever import Retriever

    folder = bundle.parent / "garments.gallery"
    paths = sorted((garments / "images").glob("*-val-*.jpg"))
    found = [Source(id=p.stem, path=p, metadata={"article": p.stem.split("-")[0]}) for p in paths]
    with Retriever.open(bundle, threads=1) as retriever:
        retriever.index(found, folder)
    return folder


def write_graphs(folder: Path, garments: Path, seed: int = 0) -> None:
    """Write config.json, model.safetensors, tokenizer.json, calibration/ and two ONNX graphs."""
    from safetensors.numpy import save_file

    from cir_rt.bundle import sha256
    from cir_rt.export.checkpoint import ModelConfig, TowerSpec, write_config
    from cir_rt.export.data.formats import open_dataset
    from cir_rt.export.samples import write_samples
    from cir_rt.export.train.vocabulary import learn
    from cir_rt.preprocess import Preprocess

    folder.mkdir(parents=True)
    dataset = open_dataset(garments)
    split = dataset.split("train")
    pieces = learn((q.text for q in split.queries), PIECES, folder / "tokenizer.json")
    weights = tiny_weights(np.random.default_rng(seed), pieces)
    save_file(weights, folder / "model.safetensors")
    write_config(
        ModelConfig(
            dim=DIM,
            image=TowerSpec(kind="tiny", settings={"channels": CHANNELS}),
            text=TowerSpec(kind="tiny"),
            context=24,
            preprocess=Preprocess(size=SIZE),
            weights_sha256=sha256(folder / "model.safetensors"),
        ),
        folder,
    )
    write_samples(dataset, split, folder / "calibration", side=64, seed=seed)
    for role in ("image", "text"):
        own = {k.split(".", 1)[1]: v for k, v in weights.items() if k.startswith(role)}
        (folder / f"{role}.onnx").write_bytes(tiny_graph(role, own))


def tiny_weights(rng: np.random.Generator, pieces: int) -> dict[str, np.ndarray]:
    """Return random weights of both towers and the composition's gate, float32."""
    flat = CHANNELS * (SIZE // PATCH) ** 2
    shapes = {
        "image.conv": (CHANNELS, 3, PATCH, PATCH),
        "image.projection": (flat, DIM),
        "text.pieces": (pieces, DIM),
        "text.projection": (DIM, DIM),
        "compose.hidden.weight": (DIM, 2 * DIM),
        "compose.hidden.bias": (DIM,),
        "compose.gate.weight": (2, DIM),
        "compose.gate.bias": (2,),
    }
    scaled = {k: rng.standard_normal(s, np.float32) / np.sqrt(s[-1]) for k, s in shapes.items()}
    return {name: array.astype(np.float32) for name, array in scaled.items()}


def tiny_graph(role: str, weights: dict[str, np.ndarray]) -> bytes:
    """Return a tower as ONNX: a convolution or a mean over pieces, a projection, unit length."""
    from onnx import TensorProto, checker, helper, numpy_helper

    node = helper.make_node
    constants = dict(weights)
    if role == "image":
        inputs = [("pixels", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])]
        nodes = [
            node("Conv", ["pixels", "conv"], ["patches"], "conv", strides=[PATCH, PATCH]),
            node("Relu", ["patches"], ["lit"], "relu"),
            node("Flatten", ["lit"], ["pooled"], "flatten"),
            node("MatMul", ["pooled", "projection"], ["long"], "project"),
        ]
    else:
        inputs = [("ids", TensorProto.INT64, ["batch", "length"])]
        constants |= {"pad": np.array(0, np.int64), "axis": np.array([1], np.int64)}
        constants |= {"last": np.array([-1], np.int64)}
        nodes = [
            node("Equal", ["ids", "pad"], ["padded"], "equal"),
            node("Not", ["padded"], ["said"], "not"),
            node("Cast", ["said"], ["ones"], "cast", to=TensorProto.FLOAT),
            node("Unsqueeze", ["ones", "last"], ["mask"], "unsqueeze"),
            node("Gather", ["pieces", "ids"], ["found"], "gather"),
            node("Mul", ["found", "mask"], ["kept"], "mul"),
            node("ReduceSum", ["kept", "axis"], ["pooled"], "sum", keepdims=0),
            node("MatMul", ["pooled", "projection"], ["long"], "project"),
        ]
    constants["axes"] = np.array([1], np.int64)
    nodes += [
        node("ReduceL2", ["long", "axes"], ["length"], "length", keepdims=1),
        node("Div", ["long", "length"], ["vector"], "unit"),
    ]
    graph = helper.make_graph(
        nodes,
        role,
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", DIM])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()
