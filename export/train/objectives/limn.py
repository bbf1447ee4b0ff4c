"""LIMN: L = L_token + a L_factor + b L_orthogonal (arXiv 2305.09979)."""

from __future__ import annotations

from torch import Tensor

from cir_rt.export.models.systems import LimnModel
from cir_rt.export.train.inputs import Inputs, half_precision
from cir_rt.export.train.limn_losses import matching, orthogonality
from cir_rt.export.train.objectives.triplets import Asked
from cir_rt.export.train.recipes import Limn


def terms(model: LimnModel, inputs: Inputs, recipe: Limn, asked: Asked) -> dict[str, Tensor]:
    """Return `tokens`, `factors` and `orthogonality`."""
    said = inputs.texts(asked.captions)
    limn = model.compose
    with half_precision(inputs.device):
        seen = limn.factors(asked.pictures)
        words = limn.words(said)
        everything = limn.flat(seen)  # (pictures, dim)
        q, _ = limn(everything[asked.reference], words)
    tokens, factors = matching(
        limn,
        q.float(),
        everything.float(),
        asked.positives,
        asked.right,
        model.scale,
        asked.weights,
    )
    shape = (limn.config.factors, limn.config.width)
    apart = orthogonality(seen[asked.reference], seen[asked.positives], words.unflatten(-1, shape))
    return {
        "tokens": tokens,
        "factors": recipe.factor_loss * factors,
        "orthogonality": recipe.orthogonality * apart,
    }
