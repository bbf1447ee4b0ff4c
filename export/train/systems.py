"""What each recipe trains: the stages of a run, over a model and its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cir_rt.export.train.inputs import Inputs
from cir_rt.export.train.objectives import Objective, hybrid, limn, prune
from cir_rt.export.train.objectives.pairs import Pairs
from cir_rt.export.train.objectives.rerank import Candidates
from cir_rt.export.train.objectives.triplets import Triplets
from cir_rt.export.train.recipes import Limn, Progressive, Prune, Recipe, Rerank
from cir_rt.export.train.trainer import Stage


def stages_of(model: Any, inputs: Inputs, recipe: Recipe) -> Sequence[Stage]:
    """Return the recipe's stages, first to last; their shares make 1."""
    if isinstance(recipe, Progressive):
        return _progressive(model, inputs, recipe)
    return [Stage(name=recipe.system, objective=_objective(model, inputs, recipe), share=1)]


def _objective(model: Any, inputs: Inputs, recipe: Recipe) -> Objective:
    if isinstance(recipe, Rerank):
        return Candidates(model, inputs, recipe)
    if isinstance(recipe, Prune):
        return Triplets(model, inputs, recipe, prune.terms)
    assert isinstance(recipe, Limn), recipe
    return Triplets(model, inputs, recipe, limn.terms)


def _progressive(model: Any, inputs: Inputs, recipe: Progressive) -> Sequence[Stage]:
    stages = []
    if recipe.image_text:
        alone = Pairs(model, inputs, recipe)
        stages.append(Stage(name="image-text", objective=alone, share=recipe.image_text))
    if recipe.domain:
        paired = Pairs(model, inputs, recipe, products=recipe.products)
        stages.append(Stage(name="domain", objective=paired, share=recipe.domain))
    if recipe.weight is not None:
        model.compose.fix(recipe.weight)
    rest = 1 - recipe.image_text - recipe.domain
    if rest > 1e-6:
        composed = Triplets(model, inputs, recipe, hybrid.terms)
        stages.append(Stage(name="hybrid", objective=composed, share=rest))
    return stages
