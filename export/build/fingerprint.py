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

    `merged` is the number of tokens where they are fewer than the tower's.
    """
    digest = hashlib.sha256()
    settings = {
        "image": to_dict(graphs.config.image),
        "preprocess": to_dict(graphs.config.preprocess),
        **({"merged": merged} if merged else {}),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(load_file(graphs.weights).items()):
        if name.startswith("image."):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()
