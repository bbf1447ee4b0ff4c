"""Beam search over pieces, for many sequences at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# (pieces said last, rows of the previous call that they follow) -> log-probabilities of the next
# piece, (rows, vocabulary); a sequence's beams are neighbouring rows.
Step = Callable[[Tensor, Tensor], Tensor]


def beam_search(
    step: Step, n: int, *, beams: int, longest: int, start: int, end: int, device: torch.device
) -> Tensor:
    """Return the likeliest sequences that were met, (n, longest) int64, filled up with `end`.

    A sequence has 1 to `longest` pieces, the end not counted. What is compared is its mean
    log-probability, the end counted, so that short ones have no advantage. `step` is first called
    with `start` in every beam. Who ended competes no more with who goes on; the search stops when
    no beam can become better than the best that ended, which changes no result.
    """
    sums = torch.full((n, beams), -torch.inf, device=device)
    sums[:, 0] = 0.0  # all beams begin alike: one is enough
    said = torch.full((n, beams, longest), end, device=device)
    best = torch.full((n,), -torch.inf, device=device)
    answer = said[:, 0].clone()
    first = beams * torch.arange(n, device=device)[:, None]  # each sequence's first row
    pieces = torch.full((n * beams,), start, device=device)
    parents = torch.arange(n * beams, device=device)
    for length in range(longest + 1):
        following = sums[:, :, None] + step(pieces, parents).view(n, beams, -1)
        if length:  # nobody says nothing
            ended, beam = (following[:, :, end] / (length + 1)).max(1)
            better = ended > best
            best = torch.where(better, ended, best)
            chosen = said.gather(1, beam[:, None, None].expand(-1, 1, longest))[:, 0]
            answer = torch.where(better[:, None], chosen, answer)
        following[:, :, end] = -torch.inf
        reachable = following.amax((1, 2)) / (longest + 1)
        if length == longest or not (reachable > best).any():
            break
        sums, places = following.flatten(1).topk(beams)
        beam, piece = places // following.shape[2], places % following.shape[2]
        said = said.gather(1, beam[:, :, None].expand(-1, -1, longest))
        said[:, :, length] = piece
        pieces, parents = piece.flatten(), (first + beam).flatten()
    return answer
