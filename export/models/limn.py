"""LIMN: queries and targets as latent factors, compared factor by factor and as a whole.

Source: Wen, Song, Yin, Wu, Guan, Nie, "Self-Training Boosted Multi-Factor Matching Network for
Composed Image Retrieval" (TPAMI 46(5), 2024; arXiv 2305.09979). No code is public: the layers are
a reconstruction. One thing is ours: a gallery keeps of a picture one flat vector, of matching
width, and a reference is composed from it. So a stored reference is never encoded again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cir_rt.export.models.attention import Transformer
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.towers import unit

WIDEST = 1024  # numbers of a flat vector: what an index holds of each picture


@dataclass(frozen=True, kw_only=True)
class LimnConfig:
    """The shape of the factors; `factor_weight` is g in S + g S_f."""

    factors: int = 8
    width: int = 256  # of a factor while it is computed
    layers: int = 1  # of each Transformer
    heads: int = 4
    token_width: int = 256  # of the whole's part of a flat vector
    match_width: int = 96  # of each factor's part
    factor_weight: float = 1.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        whole = ("factors", "width", "layers", "heads", "token_width", "match_width")
        for name in whole:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if not self.factor_weight > 0:  # a reference is read from the factors' parts
            raise ValueError(f"factor_weight is {self.factor_weight:g}, expected more than 0")
        if self.dim > WIDEST:
            raise ValueError(
                f"token_width {self.token_width} + factors {self.factors} * match_width "
                f"{self.match_width} = {self.dim}, expected at most {WIDEST}. Lower match_width."
            )

    @property
    def dim(self) -> int:
        """Numbers of a flat vector."""
        return self.token_width + self.factors * self.match_width


class Limn(nn.Module):
    """Flat vectors of pictures, factors of words, and queries from both.

    With t* the whole and t_1..t_K the factors, all of unit length, a flat vector is
    [t*; (g/K)^1/2 t_1; …; (g/K)^1/2 t_K] / (1 + g)^1/2. It has unit length, and the inner product
    of a query's with a target's is (S + g S_f) / (1 + g), where S = cos(q*, t*) and
    S_f = mean_k cos(q_k, t_k): an inner-product index ranks by both terms exactly.
    Neither side attends to the other.
    """

    def __init__(
        self,
        config: LimnConfig,
        *,
        image_width: int,
        image_dim: int,
        text_width: int,
        text_dim: int,
    ) -> None:
        """`…_width` is of a tower's tokens, `…_dim` of its vectors."""
        super().__init__()
        self.config = config
        width, stack = config.width, (config.width, config.heads, config.layers, config.dropout)
        self.image_factors = _FactorTokens(config, image_width, image_dim)
        self.text_factors = _FactorTokens(config, text_width, text_dim)
        self.across_modalities = Transformer(*stack)
        self.composing = nn.Parameter(0.02 * torch.randn(width))  # c: reads reference and words
        self.across_factors = Transformer(*stack)
        self.matching = nn.Parameter(0.02 * torch.randn(width))  # m: reads all factors
        self.expand = nn.Linear(config.match_width, width)
        self.project_token = nn.Linear(width, config.token_width)
        self.project_factor = nn.Linear(width, config.match_width)
        self._token_share = (1 + config.factor_weight) ** -0.5
        self._factor_share = (config.factor_weight / config.factors) ** 0.5 * self._token_share

    @property
    def dim(self) -> int:
        """Numbers of a flat vector."""
        return self.config.dim

    def factors(self, pictures: Encoded) -> Tensor:
        """Return the pictures' factors (n, factors, width), which the orthogonality loss wants."""
        return self.image_factors(pictures)

    def flat(self, factors: Tensor) -> Tensor:
        """Return unit vectors (n, dim) of factors, be they a picture's or a query's."""
        reader = self.matching.expand(len(factors), 1, -1)
        whole = self.across_factors(torch.cat([reader, factors], dim=1), first=1)[:, 0]
        token = self._token_share * unit(self.project_token(whole))
        parts = self._factor_share * unit(self.project_factor(factors))
        return torch.cat([token, parts.flatten(1)], dim=-1)

    def pictures(self, encoded: Encoded) -> Tensor:
        """Return what a gallery holds and what `forward` reads of a reference: (n, dim), unit."""
        return self.flat(self.factors(encoded))

    def words(self, encoded: Encoded) -> Tensor:
        """Return what `forward` reads of a caption: its factors one after another."""
        return self.text_factors(encoded).flatten(1)  # (n, factors * width)

    def forward(self, v: Tensor, u: Tensor) -> tuple[Tensor, None]:
        """Return queries (n, dim) of unit length, and None: attention leaves no weights to tell.

        `v` (n, dim) are the references' flat vectors, `u` is what `words` returns. Of a reference
        the factors are read; the whole, t*, is for matching alone.
        """
        config = self.config
        reference = self.expand(config.match_width**0.5 * self.parts(v)[1])  # (n, factors, width)
        n = len(reference)
        words = u.view(n, config.factors, config.width)
        reader = self.composing.expand(n, config.factors, -1)
        rows = torch.stack([reader, reference, words], dim=2)  # (n, factors, 3, width)
        composed = self.across_modalities(rows.flatten(0, 1), first=1)
        return self.flat(composed.view(n, config.factors, config.width)), None

    def parts(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unit vectors in flat ones: (n, token_width) and (n, factors, match_width)."""
        token, factors = flat.tensor_split([self.config.token_width], dim=-1)
        shape = (self.config.factors, self.config.match_width)
        return token / self._token_share, factors.unflatten(-1, shape) / self._factor_share

    def similarities(self, q: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return S and S_f of every query with every flat vector: (queries, m) each."""
        (q_token, q_factors), (t_token, t_factors) = self.parts(q), self.parts(flat)
        by_factor = q_factors.flatten(1) @ t_factors.flatten(1).T
        return q_token @ t_token.T, by_factor / self.config.factors


class _FactorTokens(nn.Module):
    """F: the first K outputs of a Transformer over [E; local tokens; global token].

    Ours: the global vector also joins every row of E, by a map of its own for each. With E alone
    the factors of all pictures begin alike, and alike to each other; training has to part them
    first, and stays collapsed where its rate is high.
    """

    def __init__(self, config: LimnConfig, token_width: int, dim: int) -> None:
        super().__init__()
        width = config.width
        self.seeds = nn.Parameter(torch.empty(config.factors, width))  # E
        nn.init.orthogonal_(self.seeds)
        self.local = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, width))
        self.whole = nn.Linear(dim, (config.factors + 1) * width)
        self.encoder = Transformer(width, config.heads, config.layers, config.dropout)

    def forward(self, encoded: Encoded) -> Tensor:
        factors, width = self.seeds.shape
        numbers = self.whole.in_features**0.5 * encoded.vectors  # about 1 each
        whole = self.whole(numbers).view(-1, factors + 1, width)
        starts, token = whole.tensor_split([factors], dim=1)
        local = self.local(encoded.tokens.float())  # towers may compute in half precision
        rows = torch.cat([self.seeds + starts, local, token], dim=1)
        keep = None
        if encoded.mask is not None:
            always = torch.ones_like(encoded.mask[:, :1])
            keep = torch.cat([always.expand(-1, factors), encoded.mask, always], dim=1)
        return self.encoder(rows, first=factors, keep=keep)
