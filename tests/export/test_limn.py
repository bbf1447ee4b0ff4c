"""Hold LIMN against its formulas, term by term, and its graphs against PyTorch."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cir_rt.config import from_dict
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import ConfigError
from cir_rt.export.models.attention import Transformer
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.limn import Limn, LimnConfig
from cir_rt.export.models.towers import unit
from cir_rt.export.train.limn_losses import matching, orthogonality
from cir_rt.export.train.losses import contrastive

SMALL = LimnConfig(factors=3, width=16, heads=2, token_width=12, match_width=5, dropout=0.0)
SHAPES = [
    SMALL,
    LimnConfig(factors=1, width=8, heads=1, token_width=1, match_width=1),
    LimnConfig(factors=7, width=16, heads=4, layers=2, token_width=7, match_width=19),
    LimnConfig(factors=4, width=24, heads=3, token_width=40, match_width=24, factor_weight=0.3),
    LimnConfig(factors=2, width=16, heads=2, token_width=5, match_width=9, factor_weight=2.5),
]


def composer(config: LimnConfig = SMALL, *, seed: int = 0) -> Limn:
    torch.manual_seed(seed)
    widths = {"image_width": 10, "image_dim": 6, "text_width": 14, "text_dim": 9}
    model = Limn(config, **widths).eval()
    for parameter in model.parameters():  # biases count, and norms are not the identity
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if (parameter == 1).all() else 0.0, 0.05)
    return model


def pictures(n: int, places: int = 9, *, seed: int = 0) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    vectors = unit(torch.randn(n, 6, generator=generator))
    return Encoded(vectors=vectors, tokens=torch.randn(n, places, 10, generator=generator))


def texts(n: int, length: int = 7, *, seed: int = 1) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (n, 1), generator=generator)
    return Encoded(
        vectors=unit(torch.randn(n, 9, generator=generator)),
        tokens=torch.randn(n, length, 14, generator=generator),
        mask=torch.arange(length)[None, :] < lengths,
    )


def assert_close(a: Tensor, b: Tensor, limit: float = 1e-6) -> None:
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) < limit


@torch.inference_mode()
@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 19), (7, 7)])
def test_a_flat_product_is_both_terms(config: LimnConfig, n: int, m: int) -> None:
    """One inner product, and S + g S_f computed from parts that are normalised one by one."""
    limn = composer(config)
    q, _ = limn(limn.pictures(pictures(n)), limn.words(texts(n)))
    flat = limn.pictures(pictures(m, seed=2))
    assert q.shape == (n, config.dim)
    ones = torch.ones(m)
    assert_close(flat.norm(dim=-1), ones)
    products = (q @ flat.T).numpy()
    split, width, g = config.token_width, config.match_width, config.factor_weight
    for i in range(n):
        for j in range(m):
            a, b = q[i].double().numpy(), flat[j].double().numpy()
            whole = _cosine(a[:split], b[:split])
            by_factor = 0.0
            for k in range(config.factors):
                part = slice(split + k * width, split + (k + 1) * width)
                by_factor += _cosine(a[part], b[part]) / config.factors
            assert products[i, j] == pytest.approx((whole + g * by_factor) / (1 + g), abs=1e-6)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@torch.inference_mode()
@pytest.mark.parametrize("config", SHAPES)
def test_similarities_are_the_terms_of_the_product(config: LimnConfig) -> None:
    limn = composer(config)
    q, _ = limn(limn.pictures(pictures(7)), limn.words(texts(7)))
    flat = limn.pictures(pictures(19, seed=2))
    whole, by_factor = limn.similarities(q, flat)
    g = config.factor_weight
    assert_close((whole + g * by_factor) / (1 + g), q @ flat.T)
    token, factors = limn.parts(flat)
    assert_close(token.norm(dim=-1), torch.ones(19))
    assert_close(factors.norm(dim=-1), torch.ones(19, config.factors))


@torch.inference_mode()
def test_factors_are_as_many_as_configured_and_differ() -> None:
    limn = composer()
    factors = limn.factors(pictures(7))
    assert factors.shape == (7, 3, 16)
    assert limn.words(texts(7)).shape == (7, 3 * 16)
    assert float((factors[:, 0] - factors[:, 1]).abs().max()) > 0.01
    assert_close(limn.pictures(pictures(7)), limn.flat(factors))


@torch.inference_mode()
def test_a_target_is_its_factors_and_what_reads_them() -> None:
    """The target's way, written out: t_k = W F_k, t* = W* of what m reads of [m; F]."""
    limn = composer()
    for encoded in pictures(7), pictures(7, places=1):
        factors = limn.factors(encoded)
        token, parts = limn.parts(limn.flat(factors))
        for row in range(7):
            rows = torch.cat([limn.matching[None], factors[row]])[None]
            whole = limn.across_factors(rows, first=4)[0, 0]
            assert_close(token[row], unit(limn.project_token(whole)))
            for k in range(3):
                assert_close(parts[row, k], unit(limn.project_factor(factors[row, k])))


@torch.inference_mode()
def test_a_factor_is_composed_of_the_same_factor_of_both_sides() -> None:
    limn = composer()
    v, u = limn.pictures(pictures(7)), limn.words(texts(7))
    q, weights = limn(v, u)
    assert weights is None
    _, composed = limn.parts(q)
    changed = u.view(7, 3, 16).clone()
    changed[:, 1] = limn.words(texts(7, seed=4)).view(7, 3, 16)[:, 1]
    _, other = limn.parts(limn(v, changed.flatten(1))[0])
    moved = (other - composed).abs().amax((0, 2))
    assert moved[1] > 1e-3
    assert moved[0] < 1e-6
    assert moved[2] < 1e-6
    for row in range(7):
        k = row % 3
        read = limn.expand(5**0.5 * limn.parts(v)[1][row, k])
        rows = torch.stack([limn.composing, read, u.view(7, 3, 16)[row, k]])[None]
        answer = limn.across_modalities(rows, first=3)[0, 0]
        assert_close(composed[row, k], unit(limn.project_factor(answer)))


@torch.inference_mode()
def test_a_reference_is_read_by_its_factors_alone() -> None:
    limn = composer()
    v, u = limn.pictures(pictures(7)), limn.words(texts(7))
    other = v.clone()
    other[:, :12] = limn.pictures(pictures(7, seed=3))[:, :12]
    assert torch.equal(limn(v, u)[0], limn(other, u)[0])
    other[:, 12:] = limn.pictures(pictures(7, seed=3))[:, 12:]
    assert float((limn(v, u)[0] - limn(other, u)[0]).abs().max()) > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("n", [1, 7, 19])
def test_a_batch_is_its_rows(n: int) -> None:
    limn = composer()
    seen, said = pictures(n), texts(n)
    v, u = limn.pictures(seen), limn.words(said)
    q, _ = limn(v, u)
    for k in range(n):
        row = torch.tensor([k])
        assert_close(limn.pictures(seen[row])[0], v[k])
        assert_close(limn.words(said[row])[0], u[k], 1e-5)
        assert_close(limn(v[row], u[row])[0][0], q[k])


@torch.inference_mode()
@pytest.mark.parametrize("length", [1, 7])
def test_padding_does_not_change_words(length: int) -> None:
    limn = composer()
    said = texts(7, length)
    padding = torch.randn(7, 11, 14)
    assert said.mask is not None
    longer = Encoded(
        vectors=said.vectors,
        tokens=torch.cat([said.tokens, padding], dim=1),
        mask=torch.cat([said.mask, torch.zeros(7, 11, dtype=torch.bool)], dim=1),
    )
    assert_close(limn.words(longer), limn.words(said), 1e-5)


@torch.inference_mode()
def test_the_first_rows_are_those_of_a_full_pass() -> None:
    torch.manual_seed(0)
    encoder = Transformer(16, 2, 2, 0.0).eval()
    x = torch.randn(7, 9, 16)
    keep = torch.rand(7, 9) < 0.7
    keep[:, :3] = True
    for mask in (None, keep):
        assert_close(encoder(x, 3, mask), encoder(x, 9, mask)[:, :3])


def test_towers_may_compute_in_half_precision() -> None:
    seen = pictures(7)
    half = Encoded(vectors=seen.vectors, tokens=seen.tokens.bfloat16())
    assert composer().pictures(half).dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"match_width": 97}, "= 1032, expected at most 1024. Lower match_width"),
        ({"factors": 0}, "factors is 0, expected at least 1"),
        ({"heads": 3}, "width 256 is not a multiple of heads 3"),
        ({"factor_weight": 0}, "factor_weight is 0, expected more than 0"),
        ({"factor": 4}, "Did you mean 'factors'"),
    ],
)
def test_impossible_shapes_are_refused(values: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        from_dict(LimnConfig, values, "composer")


def test_the_default_fills_what_an_index_holds() -> None:
    assert LimnConfig().dim == 1024


def loss(limn: Limn, n: int = 7) -> Tensor:
    """Everything that training minimises, with targets and references from one pool."""
    factors = limn.factors(pictures(2 * n))
    flat, u = limn.flat(factors), limn.words(texts(n))
    q, _ = limn(flat[:n], u)
    targets = torch.arange(n, 2 * n)
    right = torch.zeros(n, 2 * n, dtype=torch.bool)
    right[torch.arange(n), targets] = True
    token, factor = matching(limn, q, flat, targets, right, torch.tensor(10.0))
    words = u.view(n, *factors.shape[1:])
    return token + 0.5 * factor + 0.1 * orthogonality(factors[:n], words, factors[n:])


def test_every_parameter_learns() -> None:
    limn = composer().train()
    loss(limn).backward()
    for name, parameter in limn.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_training_lowers_the_loss() -> None:
    limn = composer().train()
    optimizer = torch.optim.AdamW(limn.parameters(), lr=3e-3)
    before = float(loss(limn).detach())
    for _ in range(40):
        optimizer.zero_grad()
        now = loss(limn)
        now.backward()
        optimizer.step()
    assert float(now.detach()) < 0.5 * before


@pytest.mark.parametrize("weighted", [False, True])
def test_matching_is_a_contrast_of_each_term(weighted: bool) -> None:
    limn = composer()
    q, _ = limn(limn.pictures(pictures(7)), limn.words(texts(7)))
    flat = limn.pictures(pictures(19, seed=2))
    positives = torch.arange(7)
    right = torch.rand(7, 19, generator=torch.Generator().manual_seed(0)) < 0.2
    right[positives, positives] = True
    weights = torch.tensor([1.0, 0.5, 1.0, 0.5, 0.5, 1.0, 1.0]) if weighted else None
    scale = torch.tensor(10.0)
    token, factor = matching(limn, q, flat, positives, right, scale, weights)
    whole = unit(q[:, :12]) @ unit(flat[:, :12]).T
    assert_close(token, contrastive(10 * whole, positives, right, weights), 1e-5)
    terms = [unit(q[:, s : s + 5]) @ unit(flat[:, s : s + 5]).T for s in (12, 17, 22)]
    mean = torch.stack(terms).mean(0)
    assert_close(factor, contrastive(10 * mean, positives, right, weights), 1e-5)


@pytest.mark.parametrize(("n", "k", "width"), [(1, 1, 4), (7, 3, 5), (19, 8, 16)])
def test_orthogonality_is_its_formula(n: int, k: int, width: int) -> None:
    rng = np.random.default_rng(k)
    parts = [rng.standard_normal((n + extra, k, width)) for extra in range(3)]
    means = []
    for factors in parts:
        overlaps = []
        for row in factors:
            found = 0.0
            for i in range(k):
                for j in range(k):
                    found += (_cosine(row[i], row[j]) - (i == j)) ** 2
            overlaps.append(found / k**2)
        means.append(np.mean(overlaps))
    got = orthogonality(*(torch.from_numpy(p).float() for p in parts))
    assert float(got) == pytest.approx(np.mean(means), rel=1e-4, abs=1e-7)


def test_orthogonal_factors_cost_nothing() -> None:
    turned = torch.linalg.qr(torch.randn(7, 8, 8, generator=torch.Generator().manual_seed(0)))[0]
    lengths = torch.rand(7, 8, 1) + 0.5
    assert float(orthogonality((turned * lengths)[:, :5])) < 1e-10
    same = torch.ones(7, 5, 8)
    assert float(orthogonality(same)) == pytest.approx(20 / 25)


class _Graph(nn.Module):
    """Everything that is exported of a composer, side by side."""

    def __init__(self, limn: Limn) -> None:
        super().__init__()
        self.limn = limn

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole, places, said, words, mask, v, u = inputs
        return (
            self.limn.pictures(Encoded(vectors=whole, tokens=places)),
            self.limn.words(Encoded(vectors=said, tokens=words, mask=mask)),
            self.limn(v, u)[0],
        )


NAMES = ("whole", "places", "said", "words", "mask", "v", "u")


def graph_inputs(limn: Limn, *sizes: int) -> dict[str, Tensor]:
    n, m, k, places, length = sizes  # pictures, texts, queries
    seen, said = pictures(n, places), texts(m, length)
    assert said.mask is not None
    v, u = torch.randn(k, limn.dim), torch.randn(k, 3 * 16)
    tensors = (seen.vectors, seen.tokens, said.vectors, said.tokens, said.mask, v, u)
    return dict(zip(NAMES, tensors, strict=True))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeEngine:
    """The composer's graph, every batch and length free."""
    path = tmp_path_factory.mktemp("graph") / "limn.onnx"
    free = (
        {0: "pictures"},
        {0: "pictures", 1: "places"},
        {0: "texts"},
        *({0: "texts", 1: "length"},) * 2,
        *({0: "queries"},) * 2,
    )
    limn = composer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Graph(limn),
            tuple(graph_inputs(limn, 2, 3, 4, 5, 6).values()),
            dynamo=True,
            input_names=NAMES,
            output_names=["flat", "factors", "q"],
            dynamic_shapes=(free,),
            opset_version=18,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
    return OnnxRuntimeEngine(path)


@torch.inference_mode()
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (7, 19, 7, 19, 7), (19, 7, 1, 7, 19)])
def test_graphs_are_the_module(engine: OnnxRuntimeEngine, sizes: tuple[int, ...]) -> None:
    limn = composer()
    feed = graph_inputs(limn, *sizes)
    got = engine.run({name: tensor.numpy() for name, tensor in feed.items()})
    for name, wanted in zip(("flat", "factors", "q"), _Graph(limn)(*feed.values()), strict=True):
        assert got[name].shape == wanted.shape
        assert np.abs(got[name] - wanted.numpy()).max() < 1e-5
