"""What a gallery of vectors or tokens belongs to: a model's image tower."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from safetensors.numpy import load_file

from cir_rt.config import to_dict
from cir_rt.export.checkpoint import Checkpoint


def fingerprint(graphs: Checkpoint, *, merged: int | None = None) -> str:
    """Hash what fixes a picture's vector or tokens: the image tower's weights, preprocessing.

    Where pictures' vectors are made by the composer too, its weights and settings count.

    `merged` is the number of tokens where they are fewer than the tower's.
    """
    composed = graphs.config.system == "limn"
    digest = hashlib.sha256()
    settings = {
        "image": to_dict(graphs.config.image),
        "preprocess": to_dict(graphs.config.preprocess),
        **({"merged": merged} if merged else {}),
        **({"composer": dict(graphs.config.composer)} if composed else {}),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(load_file(graphs.weights).items()):
        if name.startswith(("image.", "compose.") if composed else "image."):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()
