"""INT8 against FP32 on encoders of ViT-B/32 geometry, on this machine's CPU.

    python benchmarks/encoders.py --threads 2 --json

CLIP's image and text towers with random weights (time does not depend on them), exported and
quantized exactly as `build-engine` does, calibrated with the shipped model's own pictures and
captions. Each form runs in turns with FP32 ONNX Runtime; a ratio is FP32's median over its own.
Cosines are to FP32's vectors and, with random weights, say little: see the trained models'.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from recording import keep

from cir_rt.calibration.gate import cosines, duel
from cir_rt.calibration.quantize import Quantizer
from cir_rt.calibration.recipe import Recipe, candidates
from cir_rt.calibration.samples import Samples
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.export.build.candidates import reference
from cir_rt.export.checkpoint import CALIBRATION, ModelConfig, TowerSpec, open_checkpoint
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.demo import LOCATION
from cir_rt.export.models.storage import save_model
from cir_rt.export.models.systems import build_model
from cir_rt.export.onnx_export import export_graphs
from cir_rt.export.samples import read_samples
from cir_rt.machine import environment
from cir_rt.preprocess import Preprocess

WORDS = 49408
LENGTH = 16  # tokens of a caption
IMAGE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": WORDS,
    "max_position_embeddings": 77,
}


@click.command()
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--runs", type=int, default=100, show_default=True, help="Of each side.")
@click.option("--batches", default="1,8", show_default=True)
@click.option("--inputs", type=int, default=64, show_default=True, help="To calibrate with.")
@click.option("--layers", type=int, default=12, show_default=True, help="Fewer for a trial.")
@click.option("--json", "as_json", is_flag=True, help="Print the result only.")
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    threads: int, runs: int, batches: str, inputs: int, layers: int, as_json: bool, record: bool
) -> None:
    """Time FP32 and INT8 encoders in turns."""
    sizes = [int(batch) for batch in batches.split(",")]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        say("exporting", as_json)
        graphs = export(scratch, layers)
        samples = read(inputs)
        for role in ("image", "text"):
            say(f"{role}: quantizing and racing", as_json)
            result[role] = race(role, graphs, samples, scratch, threads, runs, sizes)
    result |= {"threads": threads, "runs": runs, "layers": layers, "environment": environment()}
    if record:
        keep("encoders", result)
    click.echo(json.dumps(result))


def say(stage: str, quiet: bool) -> None:
    """Tell a person how far it is."""
    if not quiet:
        click.echo(f"… {stage}", err=True)


def export(scratch: Path, layers: int) -> Path:
    """Write the graphs of both towers with random weights."""
    torch.manual_seed(0)
    (scratch / "checkpoint").mkdir()
    tokenizer = LOCATION / "tokenizer.json"
    words = {"vocabulary": WORDS, "context": 77}
    config = ModelConfig(
        dim=512,
        image=TowerSpec(
            kind="clip-image", settings={"values": {**IMAGE, "num_hidden_layers": layers}}
        ),
        text=TowerSpec(
            kind="clip-text", settings={**words, "values": {**TEXT, "num_hidden_layers": layers}}
        ),
        context=77,
        preprocess=Preprocess(size=224),
    )
    save_model(build_model(config), tokenizer, scratch / "checkpoint")
    export_graphs(open_checkpoint(scratch / "checkpoint"), scratch / "graphs")
    return scratch / "graphs"


def read(inputs: int) -> Samples:
    """Return the shipped calibration pictures and captions as these towers take them."""
    dataset = open_dataset(LOCATION / CALIBRATION)
    tokenizer = open_checkpoint(LOCATION).tokenizer()
    return read_samples(dataset, Preprocess(size=224), tokenizer, limit=inputs)


def race(
    role: str,
    graphs: Path,
    samples: Samples,
    scratch: Path,
    threads: int,
    runs: int,
    sizes: list[int],
) -> dict[str, Any]:
    """Return every form's milliseconds and ratio to FP32 by batch, and its cosine to FP32."""
    feeds = samples.feeds(role)
    exact = reference(role, graphs, scratch, feeds, threads)
    quantizer = Quantizer(exact.path, feeds)
    found = {}
    for name, recipe in forms().items():
        path = scratch / "form.onnx"
        quantizer.write(recipe, path)
        engine = OnnxRuntimeEngine(path, threads=threads)
        vectors = np.concatenate([engine.run(feed)["vector"] for feed in feeds])
        batches = {}
        for size in sizes:
            feed = inputs_of(role, size)
            run = duel(partial(exact.engine.run, feed), partial(engine.run, feed), runs=runs)
            batches[str(size)] = {
                "fp32_ms": round(run.before_ms, 2),
                "int8_ms": round(run.after_ms, 2),
                "ratio": round(1 / run.ratio, 2),
                "spread": round(run.spread, 3),
            }
        found[name] = {"batch": batches, "cosine_min": round(near(exact.vectors, vectors), 5)}
        engine.close()
    exact.engine.close()
    return found


def forms() -> dict[str, Recipe]:
    """Return the forms that are compared; the first is what `build-engine` tries first."""
    plain, convolutions = candidates()
    return {
        "matmul+gemm": plain,
        "matmul+gemm, one scale a weight": replace(plain, per_channel=False),
        "conv+matmul+gemm": convolutions,
    }


def inputs_of(role: str, size: int) -> dict[str, np.ndarray]:
    """Return a batch of the geometry's own size; time does not depend on what it shows."""
    rng = np.random.default_rng(0)
    if role == "image":
        return {"pixels": rng.standard_normal((size, 3, 224, 224), np.float32)}
    return {"ids": rng.integers(1, WORDS, (size, LENGTH))}


def near(exact: np.ndarray, vectors: np.ndarray) -> float:
    """Return the smallest cosine of both."""
    return cosines(exact, vectors).minimum


if __name__ == "__main__":
    main()
