"""The graphs that a build starts from; torch only where they are missing."""

from __future__ import annotations

from pathlib import Path

from cir_rt.bundle import sha256
from cir_rt.errors import BackendMissing, CheckpointError, UsageError
from cir_rt.export.checkpoint import (
    ENGINES,
    RERANKER,
    Checkpoint,
    is_checkpoint,
    open_checkpoint,
)


def graphs_of(model: Path, reranker: Path | None, scratch: Path) -> Checkpoint:
    """Return the graphs folder of a model, exporting a checkpoint that has none (needs torch).

    Raises CheckpointError for weights that moved, UsageError for a re-ranker beside exported
    graphs, BackendMissing where torch is needed and missing.
    """
    checkpoint = _unaltered(model)
    roles = ENGINES.get(checkpoint.config.system, ())
    if roles and all((model / f"{role}.onnx").exists() for role in roles):
        if reranker:
            raise UsageError(
                f"{model} are exported graphs, which carry their own re-ranker. Leave --reranker "
                "out, or:  cir-rt export CKPT --reranker CKPT --out GRAPHS"
            )
        return checkpoint
    try:
        from cir_rt.export.onnx_export import export_graphs
    except ImportError as error:
        raise BackendMissing(
            f"{model} is a checkpoint without graphs; exporting it needs torch. Install it:  "
            "pip install 'cir-rt[export]'  or elsewhere:  cir-rt export CKPT --out GRAPHS"
        ) from error
    second = _unaltered(reranker) if reranker else None
    export_graphs(checkpoint, scratch / "graphs", reranker=second)
    return open_checkpoint(scratch / "graphs")


def reranker_of(graphs: Checkpoint) -> Checkpoint | None:
    """Return the re-ranker that the graphs carry; None where there is none."""
    folder = graphs.folder / RERANKER
    return _unaltered(folder) if is_checkpoint(folder) else None


def _unaltered(folder: Path) -> Checkpoint:
    checkpoint = open_checkpoint(folder)
    if checkpoint.config.weights_sha256 not in ("", sha256(checkpoint.weights)):
        raise CheckpointError(
            f"{checkpoint.weights}: altered since config.json was written. The graphs point into "
            "it by offset; export them again:  cir-rt export CKPT --out GRAPHS"
        )
    return checkpoint
