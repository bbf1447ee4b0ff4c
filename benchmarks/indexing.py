"""How much of the encoder's own throughput bulk indexing keeps.

    python benchmarks/indexing.py photos/ --record

DATA is a dataset folder. Without --bundle the image tower has the geometry of CLIP ViT-B/32, random
weights and INT8: what it says is of no worth, what it costs is. It is kept in --scratch. Each round
times both sides in turn on the same photos: the encoder alone, on pixels that lie ready in memory,
and `Retriever.index`, from files to confirmed rows. A last run over the same folder reads nothing.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from recording import keep

from cir_rt.bundle import is_bundle, open_bundle
from cir_rt.encoder import Encoder
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset
from cir_rt.gallery.sources import Source
from cir_rt.machine import environment
from cir_rt.retriever import Retriever

FOLDER = click.Path(path_type=Path, file_okay=False)
WARM = 64  # pictures, so that engines are warm and the first round is like the others


@click.command()
@click.argument("data", type=FOLDER)
@click.option("--bundle", type=FOLDER, help="Made of the geometry of ViT-B/32 unless said.")
@click.option("--pictures", default=1000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True, help="Of the encoder.")
@click.option("--workers", type=int, help="Processes that decode; one a core unless said.")
@click.option("--scratch", type=FOLDER, default=Path("/tmp/cir-rt-indexing"), show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    data: Path,
    bundle: Path | None,
    pictures: int,
    rounds: int,
    threads: int,
    workers: int | None,
    scratch: Path,
    as_json: bool,
    record: bool,
) -> None:
    """Index photos of DATA on this machine."""
    dataset = open_dataset(data)
    model = bundle or vit(dataset, scratch)
    ids = list(dict.fromkeys(i for i in dataset.split("train").pictures))[:pictures]
    sources = [Source(id=i, path=p) for i, p in zip(ids, dataset.paths(ids), strict=True)]
    rates, again = measure(model, sources, rounds, threads, workers)
    shares = [index / alone for alone, index in rates]
    result = {
        "model": "ViT-B/32 geometry, INT8" if bundle is None else bundle.name,
        "pictures": len(sources),
        "rounds": rounds,
        "threads": threads,
        "workers": workers,
        "encoder_per_s": round(statistics.median(alone for alone, _ in rates), 1),
        "index_per_s": round(statistics.median(index for _, index in rates), 1),
        "share_of_encoder": round(statistics.median(shares), 3),
        "spread": round(max(shares) - min(shares), 3),
        "unchanged_per_s": round(again),
        "environment": environment(),
    }
    if record:
        keep("indexing", result)
    click.echo(json.dumps(result, indent=None if as_json else 2))


def measure(
    model: Path, sources: list[Source], rounds: int, threads: int, workers: int | None
) -> tuple[list[tuple[float, float]], float]:
    """Return pictures per second, (encoder alone, indexing) a round, and of a run without news."""
    encoder = Encoder.open(open_bundle(model), threads=threads)
    pixels = encoder.preprocess([str(source.path) for source in sources[: encoder.batch]])
    encoder.encode_pixels(pixels)
    rates, again = [], 0.0
    with Retriever.open(model, threads=threads) as retriever:
        for number in range(rounds):
            alone = _encoded_per_s(encoder, pixels, len(sources))
            with tempfile.TemporaryDirectory() as scratch:
                gallery = Path(scratch, "gallery")
                if number == 0:
                    retriever.index(sources[:WARM], Path(scratch, "warm"), workers=workers)
                start = time.perf_counter()
                report = retriever.index(sources, gallery, workers=workers)
                rates.append((alone, report.added / (time.perf_counter() - start)))
                start = time.perf_counter()
                again = retriever.index(sources, gallery).unchanged / (time.perf_counter() - start)
    return rates, again


def _encoded_per_s(encoder: Encoder, pixels: np.ndarray, count: int) -> float:
    """Time the engine alone on as many pictures, over and over the same batch."""
    batches = -(-count // len(pixels))
    start = time.perf_counter()
    for _ in range(batches):
        encoder.encode_pixels(pixels)
    return batches * len(pixels) / (time.perf_counter() - start)


def vit(dataset: Dataset, scratch: Path) -> Path:
    """Return a bundle whose image tower is a ViT-B/32 that nobody trained; made where missing."""
    from cir_rt.export.build import BuildOptions, build_engine
    from cir_rt.export.checkpoint import ModelConfig, TowerSpec, open_checkpoint
    from cir_rt.export.models.huggingface import MEAN, STD
    from cir_rt.export.models.storage import save_model
    from cir_rt.export.models.systems import build_model
    from cir_rt.export.onnx_export import export_graphs
    from cir_rt.export.samples import write_samples
    from cir_rt.export.train.vocabulary import learn
    from cir_rt.preprocess import Preprocess

    bundle, checkpoint, graphs = (scratch / name for name in ("vit.cir", "checkpoint", "graphs"))
    if is_bundle(bundle):
        return bundle
    checkpoint.mkdir(parents=True, exist_ok=True)
    split = dataset.split("train")
    pieces = learn((q.text for q in split.queries), 1000, checkpoint / "tokenizer.json")
    words = {"width": 64, "heads": 2, "layers": 1, "vocabulary": pieces, "context": 32, "dim": 512}
    config = ModelConfig(
        dim=512,
        image=TowerSpec(kind="clip-image", settings={"dim": 512, "values": {}}),  # its defaults
        text=TowerSpec(kind="transformer", settings=words),
        context=32,
        preprocess=Preprocess(size=224, fit="crop", mean=MEAN, std=STD),
    )
    save_model(build_model(config), checkpoint / "tokenizer.json", checkpoint)
    write_samples(dataset, split, checkpoint / "calibration", side=224, seed=0)
    export_graphs(open_checkpoint(checkpoint), graphs)
    loose = {"max_recall_drop": 100.0, "min_cosine": -1.0, "min_agreement": 0.0}
    build_engine(graphs, bundle, BuildOptions(precision="int8", keep_slower=True, **loose))
    return bundle


if __name__ == "__main__":
    main()
