"""Stage I of re-ranking: cross-entropy of q.c / temperature over the batch (arXiv 2305.16304)."""

from __future__ import annotations

from torch import Tensor

from cir_rt.export.models.systems import PruneModel
from cir_rt.export.train.inputs import Inputs, half_precision
from cir_rt.export.train.losses import query_to_target
from cir_rt.export.train.objectives.triplets import Asked
from cir_rt.export.train.recipes import Recipe


def terms(model: PruneModel, inputs: Inputs, recipe: Recipe, asked: Asked) -> dict[str, Tensor]:
    """Return `retrieval`: queries are told their targets, not the reverse."""
    with half_precision(inputs.device):
        q = model.text(asked.pictures.tokens[asked.reference], inputs.ids(asked.captions))
    logits = model.scale * q @ asked.pictures.vectors.T
    return {"retrieval": query_to_target(logits, asked.positives, asked.right, asked.weights)}
