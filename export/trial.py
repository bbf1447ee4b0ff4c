"""The shipped model on a backend, to see whether it answers there."""

from __future__ import annotations

from pathlib import Path

from cir_rt.bundle import open_bundle
from cir_rt.compose import WeightedComposer
from cir_rt.encoder import Encoder
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.export import pretrained
from cir_rt.export.checkpoint import open_checkpoint


def trial_encoder(backend: str, device: str, scratch: Path) -> Encoder:
    """Open the shipped model's engines.

    ONNX Runtime takes the graphs as they are, in FP32; for other backends a bundle is built in
    `scratch` first. Raises what the building and the opening of engines raise.
    """
    graphs = open_checkpoint(next(iter(pretrained.__path__)))
    if backend != "onnxruntime":
        from cir_rt.export.build import BuildOptions, build_engine

        options = BuildOptions(backend=backend, device=device, precision="fp16", keep_slower=True)
        build_engine(graphs.folder, scratch / f"{backend}.cir", options, rerank=False)
        return Encoder.open(open_bundle(scratch / f"{backend}.cir"), device=device)
    image, text = (
        OnnxRuntimeEngine(graphs.folder / f"{role}.onnx", device=device)
        for role in ("image", "text")
    )
    return Encoder(
        preprocess=graphs.config.preprocess,
        tokenizer=graphs.tokenizer(),
        image=image,
        text=text,
        compose=WeightedComposer.open(graphs.weights, graphs.config.temperature),
    )
