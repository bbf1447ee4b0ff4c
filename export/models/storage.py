"""PyTorch models, to and from checkpoint folders."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cir_rt.bundle import sha256
from cir_rt.errors import BackendMissing, CheckpointError
from cir_rt.export.checkpoint import TOKENIZER, WEIGHTS, Checkpoint, write_config
from cir_rt.export.models.systems import CirModel, RerankModel, build_model


def check_device(device: str) -> None:
    """Raise BackendMissing where PyTorch cannot compute on the device."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendMissing(f"device '{device}': PyTorch sees no GPU here. Use --device cpu.")


def load_model(checkpoint: Checkpoint) -> Any:
    """Build the checkpoint's model with its weights, in FP32 and evaluation mode."""
    model = build_model(checkpoint.config)
    try:
        state = {k: v.float() for k, v in load_file(checkpoint.weights).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.weights}: does not fit config.json ({error})."
        ) from error
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(
            f"{checkpoint.weights}: does not fit config.json; "
            f"missing {missing[:3]}, unexpected {unexpected[:3]}."
        )
    return model.eval()


def load_reranker(checkpoint: Checkpoint) -> RerankModel:
    """Load a re-ranker. Raises CheckpointError for any other system."""
    model = load_model(checkpoint)
    if not isinstance(model, RerankModel):
        raise CheckpointError(
            f"{checkpoint.folder}: a checkpoint of {checkpoint.config.system}, expected rerank. "
            "Train one:  cir-rt train rerank --init STAGE_ONE --data DATA --out CKPT"
        )
    return model


def save_model(
    model: CirModel, tokenizer: Path, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write config.json, model.safetensors in `dtype`, and a copy of the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for graph in folder.glob("*.onnx"):  # they point into the weights that are replaced
        graph.unlink()
    state = {
        k: v.detach().to("cpu", dtype).contiguous()
        for k, v in model.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    save_file(state, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors keeps it to its owner
    if tokenizer.resolve() != (folder / TOKENIZER).resolve():
        shutil.copyfile(tokenizer, folder / TOKENIZER)
    write_config(replace(model.config, weights_sha256=sha256(folder / WEIGHTS)), folder)
