"""Check that a benchmark counts multiplications as one would by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
WIDTH, LAYERS, INNER, TOKEN, HEAD = 24, 3, 40, 32, 2


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import arithmetic

    return arithmetic


@pytest.fixture(scope="module")
def model() -> Any:
    from cir_rt.export.models.prune import Prune
    from cir_rt.export.models.reranker import Reranker
    from cir_rt.export.models.shapes import PruneConfig

    shape = PruneConfig(
        vocabulary=30, enc_id=29, context=16, width=WIDTH, heads=3, layers=LAYERS, inner=INNER,
        image_width=TOKEN, dim=8,
    )  # fmt: skip
    whole = torch.nn.Module()
    whole.text = Prune(shape)
    whole.rerank = Reranker.from_single(whole.text.encoder, 1)
    return whole.eval()


def by_hand(length: int, places: int, candidates: int) -> int:
    """Return what stage I's reading and the published stage II multiply, early head included."""
    own = 4 * length * WIDTH**2 + 2 * length**2 * WIDTH
    look = 2 * length * WIDTH**2 + 2 * places * TOKEN * WIDTH + 2 * length * places * WIDTH
    rows = 2 * length * WIDTH * INNER
    merged = (LAYERS - LAYERS // 2) * length * 2 * WIDTH * WIDTH
    heads = HEAD * (2 * WIDTH * WIDTH + 2 * WIDTH)
    return LAYERS * (own + look + rows) + candidates * (
        2 * LAYERS * (own + look + rows) + merged + heads
    )


@pytest.mark.parametrize(("length", "places", "candidates"), [(7, 5, 3), (11, 10, 1)])
def test_a_modules_count_is_the_formula(
    counting: Any, model: Any, length: int, places: int, candidates: int
) -> None:
    ids = torch.randint(1, 29, (1, length))
    reference, tokens = torch.randn(1, places, TOKEN), torch.randn(1, candidates, places, TOKEN)

    def run() -> Any:
        return model.rerank.pairs(model.text.read(reference, ids), ids, tokens)

    assert counting.of_module(run) == by_hand(length, places, candidates)


@pytest.mark.parametrize("looking", ["plain", "absorbed"])
def test_integer_graphs_multiply_what_the_others_do(
    counting: Any, model: Any, looking: str, tmp_path: Path
) -> None:
    from cir_rt.export.rewrites.forms import write_rerank_graphs

    sizes, found = {"length": 7, "places": 5}, []
    for form in (looking, f"{looking}-int8"):
        folder = tmp_path / form
        folder.mkdir()
        write_rerank_graphs(model, folder, form=form, early=True, tokens="int8")
        found.append([counting.of_query(folder, sizes, 4, kept) for kept in (None, 2)])
        alone = [counting.of_query(folder, sizes, n, None) for n in (0, 1, 2)]
        assert alone[2] - alone[1] == alone[1] - alone[0] > 0
    assert found[0] == found[1]
    assert found[0][1] < found[0][0] < by_hand(7, 5, 4)
