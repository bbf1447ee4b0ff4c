"""A bundle's folder: the files that chosen engines need, and the manifest that describes them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from cir_rt.bundle import Fingerprints, Manifest, Role, TextInput
from cir_rt.config import to_dict
from cir_rt.export.build.backends.protocol import Backend
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.build.fingerprint import fingerprint
from cir_rt.export.build.reranker.run import BuiltReranker
from cir_rt.export.checkpoint import TOKENIZER, Checkpoint
from cir_rt.machine import versions

COMPOSE = "compose.safetensors"
RERANK_TOKENIZER = "rerank_tokenizer.json"


def assemble(
    graphs: Checkpoint,
    chosen: Mapping[str, Candidate],
    backend: Backend,
    quality: Mapping[str, Any],
    folder: Path,
    reranker: BuiltReranker | None = None,
) -> Manifest:
    """Write the bundle's files into `folder` and return what they are."""
    config = graphs.config
    shutil.copyfile(graphs.folder / TOKENIZER, folder / TOKENIZER)
    text = TextInput(tokenizer=TOKENIZER, context=config.context, pad_id=config.pad_id)
    roles = {
        role: replace(
            _installed(candidate, graphs, backend, folder),
            preprocess=config.preprocess if role == "image" else None,
            text=text if role == "text" else None,
        )
        for role, candidate in chosen.items()
    }
    if "compose" not in chosen:
        write_compose(graphs, folder / COMPOSE)
        roles["compose"] = Role(system=config.system, file=COMPOSE, temperature=config.temperature)
    return Manifest(
        target=backend.target(),
        dim=config.dim,
        fingerprints=Fingerprints(
            vectors=fingerprint(graphs),
            tokens=reranker.fingerprint if reranker else None,
        ),
        roles=roles | (_rerank_roles(reranker, folder) if reranker else {}),
        rerank=reranker.settings if reranker else None,
        versions={**versions("cir-rt", "numpy", "Pillow", "tokenizers"), **backend.versions()},
        quality=quality,
    )


def _installed(candidate: Candidate, graphs: Checkpoint, backend: Backend, folder: Path) -> Role:
    """Put a candidate's engine into the bundle; return its role, without what it is fed by."""
    return Role(
        system=graphs.config.system,
        file=backend.install(candidate, folder),
        precision=candidate.precision,
        recipe=to_dict(candidate.recipe) if candidate.recipe else {},
        inputs=candidate.engine.inputs,
        outputs=candidate.engine.outputs,
        plan=backend.plan(candidate),
    )


def _rerank_roles(reranker: BuiltReranker, folder: Path) -> dict[str, Role]:
    """Put the re-ranker's engines and its tokenizer into the bundle; return their roles."""
    graphs, config, form = reranker.graphs, reranker.graphs.config, reranker.way.form
    shutil.copyfile(graphs.folder / TOKENIZER, folder / RERANK_TOKENIZER)
    text = TextInput(tokenizer=RERANK_TOKENIZER, context=config.context, pad_id=config.pad_id)
    image = _installed(reranker.way.image, graphs, reranker.backend, folder)
    roles = {"rerank_image": replace(image, preprocess=config.preprocess)}
    for role in reranker.roles:
        roles[role] = replace(
            _installed(form.parts[role], graphs, reranker.backend, folder),
            recipe={"form": form.name},
            text=text if role == "rerank_query" else None,
        )
    return roles


def write_compose(graphs: Checkpoint, path: Path) -> None:
    """Write the composition's small weights in FP32."""
    weights = load_file(graphs.weights)
    small = {k: v.astype(np.float32) for k, v in weights.items() if k.startswith("compose.")}
    save_file(small, path)
