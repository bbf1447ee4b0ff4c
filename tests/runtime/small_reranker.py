"""A re-ranker that a reader can follow: in plain ONNX, and in numpy as the oracle of it.

A picture's tokens are its patches through one linear map, behind their mean. A query asks for a
direction, of its words and its reference's mean token, and leans to each place by what the
reference shows there. A candidate's score is the mean over places of tanh(token · asked + lean);
the early layers see the first two places alone.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cir_rt.bundle import RerankSettings, Role, TextInput, read_manifest, write_manifest
from cir_rt.engines.protocol import TensorSpec
from cir_rt.gallery.indexing import Source
from cir_rt.gallery.rowformat import RowFormat
from cir_rt.preprocess import Preprocess
from cir_rt.text import Tokenizer

WIDTH, PLACES, EARLY, SIZE, PATCH, CONTEXT = 16, 5, 2, 16, 8, 14
LOOK = Preprocess(size=SIZE, fit="crop", mean=(0.4, 0.5, 0.6), std=(0.3, 0.3, 0.3))
MODEL = "beefcafe" * 8
ROLES = ("rerank_image", "rerank_query", "rerank", "rerank_early", "rerank_late")


class Oracle:
    """The same in numpy, float64."""

    def __init__(self, pieces: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.conv = (rng.standard_normal((WIDTH, 3, PATCH, PATCH)) / 14).astype(np.float32)
        self.pieces = (rng.standard_normal((pieces, WIDTH)) / 3).astype(np.float32)

    def tokens(self, pixels: np.ndarray) -> np.ndarray:
        """Return (n, places, width) of (n, 3, size, size)."""
        side = SIZE // PATCH
        cut = pixels.reshape(-1, 3, side, PATCH, side, PATCH).astype(np.float64)
        patches = np.einsum("ncapbq,wcpq->nabw", cut, self.conv).reshape(len(pixels), -1, WIDTH)
        return np.concatenate([patches.mean(1, keepdims=True), patches], 1)

    def state(self, ids: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the direction asked for (width,), and how it leans to places (places,)."""
        words = self.pieces[ids[ids != 0]].astype(np.float64).sum(0)
        return (words + reference.mean(0)) / 8, reference @ words / 8

    def scores(
        self, state: tuple[np.ndarray, np.ndarray], tokens: np.ndarray, places: int = PLACES
    ) -> np.ndarray:
        """Return (n,) of tokens (n, places, width); the early layers see the first few places."""
        asked, lean = state
        return np.tanh(tokens @ asked + lean)[:, :places].mean(1)


def as_stored(tokens: np.ndarray) -> np.ndarray:
    """Return tokens as a gallery of INT8 gives them back."""
    rows = RowFormat(precision="int8", shape=(PLACES, WIDTH))
    return rows.decode(rows.encode(tokens.astype(np.float32)))


def engine_graph(role: str, oracle: Oracle, *, codes: bool = True) -> bytes:
    """Return a role's graph as ONNX; with `codes` it takes INT8 tokens and their scales."""
    from onnx import checker, helper, numpy_helper

    build = {"rerank_image": _image, "rerank_query": _query}.get(role)
    nodes, constants = build(oracle) if build else _scoring(role, codes)
    inputs, outputs = specs(role, codes)
    types = {"float32": 1, "int8": 3, "int64": 7}

    def infos(of: tuple[TensorSpec, ...]) -> list[Any]:
        return [helper.make_tensor_value_info(s.name, types[s.dtype], list(s.shape)) for s in of]

    graph = helper.make_graph(
        [helper.make_node(op, i, [o], **attributes) for op, i, o, attributes in nodes],
        role,
        infos(inputs),
        infos(outputs),
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _image(oracle: Oracle) -> tuple[list[Any], dict[str, Any]]:
    nodes = [
        ("Conv", ["pixels", "conv"], "grid", {"strides": [PATCH, PATCH]}),
        ("Reshape", ["grid", "shape"], "columns", {}),
        ("Transpose", ["columns"], "patches", {"perm": [0, 2, 1]}),
        ("ReduceMean", ["patches", "axis"], "mean", {"keepdims": 1}),
        ("Concat", ["mean", "patches"], "tokens", {"axis": 1}),
    ]
    return nodes, {"conv": oracle.conv, "shape": np.array([0, WIDTH, -1]), "axis": np.array([1])}


def _query(oracle: Oracle) -> tuple[list[Any], dict[str, Any]]:
    nodes = [
        ("Gather", ["pieces", "ids"], "found", {}),
        ("Equal", ["ids", "pad"], "padded", {}),
        ("Not", ["padded"], "said", {}),
        ("Cast", ["said"], "ones", {"to": 1}),
        ("Unsqueeze", ["ones", "last"], "mask", {}),
        ("Mul", ["found", "mask"], "kept", {}),
        ("ReduceSum", ["kept", "axis"], "words", {"keepdims": 0}),
        ("ReduceMean", ["reference", "axis"], "shown", {"keepdims": 0}),
        ("Add", ["words", "shown"], "both", {}),
        ("Mul", ["both", "eighth"], "asked", {}),
        ("Unsqueeze", ["words", "last"], "column", {}),
        ("MatMul", ["reference", "column"], "likeness", {}),
        ("Squeeze", ["likeness", "last"], "likenesses", {}),
        ("Mul", ["likenesses", "eighth"], "lean", {}),
    ]
    constants = {"pieces": oracle.pieces, "pad": np.int64(0), "eighth": np.float32(1 / 8)}
    return nodes, {**constants, "axis": np.array([1]), "last": np.array([-1])}


def _scoring(role: str, codes: bool) -> tuple[list[Any], dict[str, Any]]:
    wide: list[Any] = [("Identity", ["tokens"], "rows", {})]
    if codes:
        wide = [
            ("Cast", ["tokens"], "numbers", {"to": 1}),
            ("Unsqueeze", ["scales", "last"], "steps", {}),
            ("Mul", ["numbers", "steps"], "rows", {}),
        ]
    nodes = [
        *wide,
        ("Unsqueeze", ["asked", "last"], "column", {}),
        ("MatMul", ["rows", "column"], "products", {}),
        ("Squeeze", ["products", "last"], "product", {}),
        ("Add", ["product", "lean"], "leaning", {}),
        ("Tanh", ["leaning"], "seen", {}),
    ]
    first, rest = np.arange(EARLY), np.arange(EARLY, PLACES)
    constants = {"last": np.array([-1]), "axis": np.array([1])}
    if role == "rerank":
        return [*nodes, ("ReduceMean", ["seen", "axis"], "scores", {"keepdims": 0})], constants
    constants |= {"chosen": first if role == "rerank_early" else rest}
    nodes += [("Gather", ["seen", "chosen"], "part", {"axis": 1})]
    if role == "rerank_early":
        nodes += [
            ("ReduceMean", ["part", "axis"], "scores", {"keepdims": 0}),
            ("ReduceSum", ["part", "axis"], "carried_sum", {"keepdims": 1}),
        ]
        return nodes, constants
    nodes += [
        ("ReduceSum", ["part", "axis"], "sum", {"keepdims": 1}),
        ("Add", ["sum", "carried_sum"], "sums", {}),
        ("Div", ["sums", "places"], "means", {}),
        ("Squeeze", ["means", "axis"], "scores", {}),
    ]
    return nodes, {**constants, "places": np.float32(PLACES)}


def specs(role: str, codes: bool = True) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a role."""

    def spec(name: str, *shape: Any, dtype: str = "float32") -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    state = (spec("asked", 1, WIDTH), spec("lean", 1, PLACES))
    tokens = [spec("tokens", "candidates", PLACES, WIDTH, dtype="int8" if codes else "float32")]
    tokens += [spec("scales", "candidates", PLACES)] if codes else []
    scores, carried = spec("scores", "candidates"), spec("carried_sum", "candidates", 1)
    reference = spec("reference", 1, PLACES, WIDTH)
    return {
        "rerank_image": (
            (spec("pixels", "batch", 3, SIZE, SIZE),),
            (spec("tokens", "batch", PLACES, WIDTH),),
        ),
        "rerank_query": ((spec("ids", 1, "length", dtype="int64"), reference), state),
        "rerank": ((*state, *tokens), (scores,)),
        "rerank_early": ((*state, *tokens), (scores, carried)),
        "rerank_late": ((*state, *tokens, carried), (scores,)),
    }[role]


def reranking_bundle(
    bundle: Path, folder: Path, *, codes: bool = True, cascade: bool = True, **settings: Any
) -> Path:
    """Copy a bundle and put a re-ranker in; `settings` are RerankSettings' own."""
    shutil.copytree(bundle, folder)
    shutil.copy(folder / "tokenizer.json", folder / "rerank.tokenizer.json")
    manifest = read_manifest(folder)
    model = oracle(folder)
    roles = dict(manifest.roles)
    for name in ROLES if cascade else ROLES[:3]:
        (folder / "onnx" / f"{name}.onnx").write_bytes(engine_graph(name, model, codes=codes))
        text = TextInput(tokenizer="rerank.tokenizer.json", context=CONTEXT, pad_id=0)
        inputs, outputs = specs(name, codes)
        roles[name] = Role(
            system="rerank",
            file=f"onnx/{name}.onnx",
            inputs=inputs,
            outputs=outputs,
            preprocess=LOOK if name == "rerank_image" else None,
            text=text if name == "rerank_query" else None,
        )
    given = {"candidates": 20, "buckets": (2, 4, 8), "margin": 0.3 if cascade else None, "least": 3}
    rerank = RerankSettings(places=PLACES, width=WIDTH, **{**given, **settings})
    prints = replace(manifest.fingerprints, tokens=MODEL)
    write_manifest(replace(manifest, roles=roles, rerank=rerank, fingerprints=prints), folder)
    return folder


def oracle(bundle: Path) -> Oracle:
    """Return the oracle of a bundle's re-ranker."""
    tokenizer = Tokenizer(bundle / "tokenizer.json", context=CONTEXT, pad_id=0)
    return Oracle(tokenizer._pieces.get_vocab_size())


class Truth:
    """What every candidate scores, by the files alone."""

    def __init__(self, folder: Path, sources: list[Source]) -> None:
        self.model = oracle(folder)
        self.tokenizer = Tokenizer(folder / "tokenizer.json", context=CONTEXT, pad_id=0)
        self.tokens = {s.id: self.of(s.path) for s in sources}

    def of(self, picture: Any) -> np.ndarray:
        (tokens,) = as_stored(self.model.tokens(LOOK([picture])))
        return tokens

    def scores(self, reference: np.ndarray, text: str, ids: list[str], places: int = 5) -> Any:
        state = self.model.state(self.tokenizer([text])[0], reference)
        tokens = np.stack([self.tokens[i] for i in ids])
        return self.model.scores(state, tokens, places)

    def order(self, reference: np.ndarray, text: str, ids: list[str]) -> list[str]:
        scores = self.scores(reference, text, ids)
        return [ids[n] for n in np.argsort(-scores, kind="stable")]
