"""Stage 3 of the progressive system: L = NCE(q, y) + b KL(p || (w_v, w_t)).

Source: Zhao, Song, Jin (SIGIR 2022); no code is public.
"""

from __future__ import annotations

from torch import Tensor

from cir_rt.export.models.systems import ProgressiveModel
from cir_rt.export.train import losses
from cir_rt.export.train.inputs import Inputs
from cir_rt.export.train.objectives.triplets import Asked
from cir_rt.export.train.recipes import Progressive


def terms(
    model: ProgressiveModel, inputs: Inputs, recipe: Progressive, asked: Asked
) -> dict[str, Tensor]:
    """Return `retrieval` and, where the weights adapt, `weighting`."""
    everything = asked.pictures.vectors  # (pictures, dim)
    v, y = everything[asked.reference], everything[asked.positives]
    u = inputs.texts(asked.captions).vectors
    q, weights = model.compose(v, u)
    logits = model.scale * q @ everything.T
    found = {"retrieval": losses.contrastive(logits, asked.positives, asked.right, asked.weights)}
    if recipe.weighting and recipe.weight is None:
        wanted = losses.weight_targets(v, u, y, recipe.weighting_temperature)
        found["weighting"] = recipe.weighting * losses.weighting(wanted, weights)
    return found
