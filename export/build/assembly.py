"""A bundle's folder: the files that chosen engines need, and the manifest that describes them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from cir_rt.bundle import Fingerprints, Manifest, Role, TextInput
from cir_rt.config import to_dict
from cir_rt.export.build.backends.protocol import Backend
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.checkpoint import TOKENIZER, Checkpoint
from cir_rt.machine import versions

COMPOSE = "compose.safetensors"


def assemble(
    graphs: Checkpoint,
    chosen: Mapping[str, Candidate],
    backend: Backend,
    quality: Mapping[str, Any],
    folder: Path,
) -> Manifest:
    """Write the bundle's files into `folder` and return what they are."""
    config = graphs.config
    shutil.copyfile(graphs.folder / TOKENIZER, folder / TOKENIZER)
    write_compose(graphs, folder / COMPOSE)
    text = TextInput(tokenizer=TOKENIZER, context=config.context, pad_id=config.pad_id)
    roles = {
        role: Role(
            system=config.system,
            file=backend.install(candidate, folder),
            precision=candidate.precision,
            recipe=to_dict(candidate.recipe) if candidate.recipe else {},
            inputs=candidate.engine.inputs,
            outputs=candidate.engine.outputs,
            preprocess=config.preprocess if role == "image" else None,
            text=text if role == "text" else None,
            plan=backend.plan(candidate),
        )
        for role, candidate in chosen.items()
    }
    roles["compose"] = Role(system=config.system, file=COMPOSE, temperature=config.temperature)
    return Manifest(
        target=backend.target(),
        dim=config.dim,
        fingerprints=Fingerprints(vectors=fingerprint(graphs)),
        roles=roles,
        versions={**versions("cir-rt", "numpy", "Pillow", "tokenizers"), **backend.versions()},
        quality=quality,
    )


def write_compose(graphs: Checkpoint, path: Path) -> None:
    """Write the composition's small weights in FP32."""
    weights = load_file(graphs.weights)
    small = {k: v.astype(np.float32) for k, v in weights.items() if k.startswith("compose.")}
    save_file(small, path)


def fingerprint(graphs: Checkpoint) -> str:
    """Hash what fixes a gallery's vectors: the image tower's weights and the preprocessing."""
    digest = hashlib.sha256()
    settings = {
        "image": to_dict(graphs.config.image),
        "preprocess": to_dict(graphs.config.preprocess),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(load_file(graphs.weights).items()):
        if name.startswith("image."):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()
