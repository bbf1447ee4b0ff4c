"""Products kept from the towers, on which the gate is set: towers know the others by heart."""

from __future__ import annotations

import numpy as np
import torch

from cir_rt.errors import ConfigError
from cir_rt.export.models.systems import ProgressiveModel
from cir_rt.export.models.towers import unit
from cir_rt.export.train.batches import Links
from cir_rt.export.train.examples import Examples

BATCH = 256
SHIFTS = torch.linspace(-2, 2, 81)  # of the log-odds picture : words


def hold_out(links: Links, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mark about a share of the queries, whole products at a time: (queries,) bool.

    A product is what references and targets link, so that no held-out query shares a picture with
    another. Raises ConfigError where every product has more queries than the share.
    """
    product = _components(links)[links.reference]
    held = np.zeros(len(product), bool)
    for one in rng.permutation(np.unique(product)):
        more = held | (product == one)
        if more.sum() <= share * len(held):  # a product of too many queries is passed over
            held = more
    if share and not held.any():
        raise ConfigError(f"held_out = {share} keeps no product: each has more queries. Raise it.")
    return held


def _components(links: Links) -> np.ndarray:
    """Return each picture's product: the smallest row that it is linked with, (pictures,)."""
    product = np.arange(links.pictures)
    counts = [len(targets) for targets in links.targets]
    a, b = np.repeat(links.reference, counts), np.concatenate([*links.targets, np.empty(0, int)])
    a, b = a.astype(np.int64), b.astype(np.int64)
    while True:
        least = np.minimum(product[a], product[b])
        following = product.copy()
        np.minimum.at(following, a, least)
        np.minimum.at(following, b, least)
        if (following == product).all():
            return product
        product = following


@torch.inference_mode()
def set_gate(model: ProgressiveModel, examples: Examples) -> float:
    """Shift the gate's log-odds to where these queries' answers rank best, and return the shift.

    Where towers know the training products by heart, a gate taught on the same products trusts the
    picture more than it should elsewhere. What counts is the mean logarithm of the best answer's
    rank among all pictures of `examples`: unlike the loss, it does not ask for the right scale.
    """
    model.eval()
    device = next(model.parameters()).device
    pictures = [
        model.image(torch.from_numpy(model.config.preprocess.normalise(part)).to(device))
        for part in np.array_split(examples.pixels, -(-len(examples.pixels) // BATCH))
    ]
    gallery = torch.cat(pictures)  # (pictures, dim)
    links = examples.links
    said = np.asarray([captions[0] for captions in examples.captions])
    u = model.text(torch.from_numpy(examples.tokens(said, model.config.pad_id)).to(device))
    v = gallery[torch.from_numpy(links.reference).to(device)]
    right = torch.zeros(len(said), len(gallery), dtype=torch.bool, device=device)
    for query, targets in enumerate(links.targets):
        right[query, torch.from_numpy(targets).to(device)] = True
    odds = model.compose.logits(v, u)
    ranked = []
    for shift in SHIFTS.tolist():
        weights = (odds + torch.tensor([shift, 0.0], device=device)).softmax(-1)
        q = unit(weights[:, :1] * v + weights[:, 1:] * u)
        scores = q @ gallery.T
        if not examples.keep_reference:
            own = torch.from_numpy(links.reference).to(device)[:, None]
            scores = scores.scatter(1, own, -torch.inf)
        best = scores.masked_fill(~right, -torch.inf)
        ranks = 1 + (scores > best.amax(1, keepdim=True)).sum(1)
        ranked.append(float(ranks.log().mean()))
    shift = float(SHIFTS[int(np.argmin(ranked))])
    model.compose.gate.bias[0] += shift * model.compose.temperature
    return shift
