"""Check what the stages learn from: batches, negatives, terms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import RECIPE

from cir_rt.errors import DataError
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.models.encoder import encoder_of
from cir_rt.export.models.storage import load_model, save_model
from cir_rt.export.models.systems import build_model
from cir_rt.export.train.candidates import candidates
from cir_rt.export.train.chance import chance
from cir_rt.export.train.examples import Examples, read_examples
from cir_rt.export.train.inputs import Inputs
from cir_rt.export.train.learner import Learner
from cir_rt.export.train.objectives.pairs import Pairs
from cir_rt.export.train.objectives.rerank import Candidates
from cir_rt.export.train.recipes import Prune, Rerank
from cir_rt.export.train.start import start
from cir_rt.export.train.systems import stages_of

PLAIN = replace(RECIPE, augment=dict.fromkeys(RECIPE.augment, 0.0) | {"flip": 0.0})
GROUNDED = {"width": 16, "heads": 2, "layers": 2, "inner": 32, "dropout": 0.0}


def doubled(few: Examples) -> Examples:
    """Every two pictures show one product."""
    return replace(few, products=np.arange(len(few.pixels)) // 2)


def test_an_epoch_of_pairs_holds_every_picture_and_keeps_products_together(
    fresh: Checkpoint, few: Examples
) -> None:
    examples = doubled(few)
    recipe = replace(RECIPE, pictures=19)
    pairs = Pairs(load_model(fresh), Inputs(None, examples, recipe), recipe, products=1.0)
    first, again, other = (pairs.batches(np.random.default_rng(s)) for s in (1, 1, 2))
    assert sorted(np.concatenate(first)) == list(range(len(examples.pixels)))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    apart = sum(len(set(examples.products[b])) for b in first) - len(set(examples.products))
    assert apart < len(first)  # a batch's edge may part a product


def test_pairs_pull_one_products_pictures_together(fresh: Checkpoint, few: Examples) -> None:
    examples = doubled(few)
    model = load_model(fresh)
    pairs = Pairs(model, Inputs(model, examples, PLAIN), PLAIN, products=0.5)
    batch = np.arange(7)  # the last one's twin is not there
    with torch.no_grad():
        terms = pairs.losses(batch, chance(0))
        vectors = Inputs(model, examples, PLAIN).pictures(batch, chance(0)).vectors
    logits = (model.scale * vectors @ vectors.T).double()
    expected = []
    for k in range(6):
        twin = k ^ 1
        row = torch.stack([logits[k, j] for j in range(7) if j not in (k,)])
        back = torch.stack([logits[j, twin] for j in range(6) if j != twin])
        own = logits[k, twin]
        expected.append((row.logsumexp(0) - own + back.logsumexp(0) - own) / 2)
    assert float(terms["products"]) == pytest.approx(
        0.5 * float(torch.stack(expected).mean().detach()), 1e-4
    )
    assert set(terms) == {"titles", "products"}


def test_pairs_need_words_and_products(fresh: Checkpoint, few: Examples) -> None:
    model = load_model(fresh)
    alone = replace(few, products=np.arange(len(few.pixels)))
    with pytest.raises(DataError, match="no product has two pictures"):
        Pairs(model, Inputs(model, alone, RECIPE), RECIPE, products=1.0)
    wordless = replace(few, phrases=tuple(np.zeros(0, np.int64) for _ in few.phrases))
    with pytest.raises(DataError, match="title or attributes"):
        Pairs(model, Inputs(model, wordless, RECIPE), RECIPE)


def test_a_fixed_weight_stays(fresh: Checkpoint, few: Examples) -> None:
    recipe = replace(PLAIN, weight=0.3)
    model = load_model(fresh)
    (stage,) = stages_of(model, Inputs(model, few, recipe), recipe)
    batch = stage.objective.batches(np.random.default_rng(0))[0]
    terms = stage.objective.losses(batch, chance(0))
    assert set(terms) == {"retrieval", "titles"}
    sum(terms.values()).backward()
    assert all(p.grad is None for p in model.compose.parameters())
    v, u = torch.nn.functional.normalize(torch.randn(2, 5, 32), dim=-1)
    assert torch.allclose(model.compose(v, u)[1], torch.tensor([0.3, 0.7]).expand(5, 2))


def test_stages_are_those_that_have_a_share(fresh: Checkpoint, few: Examples) -> None:
    model, examples = load_model(fresh), doubled(few)
    for shares, names in [
        ({}, ["hybrid"]),
        ({"image_text": 0.2, "domain": 0.3}, ["image-text", "domain", "hybrid"]),
        ({"image_text": 0.3, "domain": 0.7}, ["image-text", "domain"]),
    ]:
        recipe = replace(PLAIN, **shares)
        stages = stages_of(model, Inputs(model, examples, recipe), recipe)
        assert [stage.name for stage in stages] == names
        assert sum(stage.share for stage in stages) == pytest.approx(1)


@pytest.fixture(scope="module")
def staged(drawn: Dataset, fresh: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Examples, recipe and model of stage II over an untrained stage I."""
    folder = tmp_path_factory.mktemp("staged")
    text = replace(Prune().text, settings=GROUNDED)
    prune = Prune(text=text, augment=PLAIN.augment)
    split = drawn.split("val")
    torch.manual_seed(0)
    model = start(drawn, split, prune, folder / "words.json", fresh.folder)
    save_model(model, folder / "words.json", folder / "prune")
    recipe = Rerank(queries=7, hard=5, top=19, negatives="hard", augment=PLAIN.augment)
    model = start(drawn, split, recipe, folder / "words.json", folder / "prune")
    from cir_rt.text import Tokenizer

    tokenizer = Tokenizer(folder / "words.json", context=model.config.context, pad_id=0)
    examples = read_examples(drawn, split, model.config.preprocess, tokenizer)
    best = candidates(encoder_of(model, tokenizer), drawn, split, examples, recipe.top)
    return replace(examples, candidates=best), recipe, model, tokenizer


def test_texts_begin_with_their_mark(staged: Any) -> None:
    examples, _, model, _ = staged
    assert (examples.ids[:, 0] == model.config.text.settings["enc_id"]).all()
    assert not (examples.ids[:, 1:] == model.config.text.settings["enc_id"]).any()


def test_candidates_are_the_pruners_best(drawn: Dataset, staged: Any) -> None:
    examples, recipe, model, tokenizer = staged
    split = drawn.split("val")
    found = examples.candidates
    assert found.shape == (len(examples.captions), recipe.top)
    query = split.queries[11]
    gallery = split.galleries[query.group]
    preprocess = model.config.preprocess
    ids = torch.from_numpy(tokenizer([query.text], truncate=True))
    with torch.inference_mode():
        seen = model.image.read(torch.from_numpy(preprocess(drawn.paths(gallery))))
        reference = model.image.read(torch.from_numpy(preprocess(drawn.paths([query.reference]))))
        scores = seen.vectors @ model.text(reference.tokens, ids)[0]
    best = [gallery[k] for k in scores.argsort(descending=True)[: recipe.top].tolist()]
    assert [examples.names[row] for row in found[11]] == best


@pytest.mark.parametrize("negatives", ["batch", "hard"])
def test_stage_two_alone_learns(staged: Any, negatives: str) -> None:
    examples, recipe, model, _ = staged
    if negatives == "batch":
        examples = replace(examples, candidates=None)
    stage = Candidates(model, Inputs(model, examples, recipe), recipe)
    batches = stage.batches(np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(len(examples.captions)))
    model.zero_grad()
    terms = stage.losses(batches[0], chance(0))
    terms["rerank"].backward()
    learnt = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert learnt == {"rerank"}


def test_a_trained_re_ranker_gains_an_early_head(
    drawn: Dataset, fresh: Checkpoint, staged: Any, tmp_path: Path
) -> None:
    """Nothing else of it changes; and a checkpoint that has one keeps it."""
    _, recipe, model, _ = staged
    words = tmp_path / "words.json"
    save_model(model, fresh.folder / "tokenizer.json", tmp_path / "whole")
    wanted = replace(recipe, early_layers=1)
    got = start(drawn, drawn.split("val"), wanted, words, tmp_path / "whole")
    assert got.config.composer == {"early_layers": 1}
    old, new = model.rerank.state_dict(), got.rerank.state_dict()
    assert {name.split(".")[0] for name in new.keys() - old.keys()} == {"early_head"}
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    save_model(got, words, tmp_path / "early")
    again = start(drawn, drawn.split("val"), recipe, words, tmp_path / "early")
    assert all(torch.equal(again.rerank.state_dict()[n], tensor) for n, tensor in new.items())


@pytest.mark.parametrize("negatives", ["batch", "hard"])
def test_the_early_head_learns_too(staged: Any, negatives: str) -> None:
    """Its loss is that of the whole, weighted, of its own scores."""
    examples, recipe, model, _ = staged
    if negatives == "batch":
        examples = replace(examples, candidates=None)
    early = build_model(replace(model.config, composer={"early_layers": 1})).eval()
    early.load_state_dict(model.state_dict(), strict=False)
    inputs = Inputs(early, examples, recipe)
    terms = [
        Candidates(early, inputs, replace(recipe, early=weight)).losses(np.arange(7), chance(0))
        for weight in (0.5, 0.25)
    ]
    assert set(terms[0]) == {"rerank", "early"}
    assert terms[0]["rerank"].item() == terms[1]["rerank"].item()
    assert terms[0]["early"].item() == pytest.approx(2 * terms[1]["early"].item())
    terms[0]["early"].backward()
    learnt = {n.split(".")[0] for n, p in early.rerank.named_parameters() if p.grad is not None}
    behind = [p.grad for n, p in early.rerank.named_parameters() if n.startswith("layers.1.")]
    assert learnt == {"early_head", "embedding", "layers"}
    assert behind
    assert all(grad is None for grad in behind)


def test_the_batch_holds_no_wrong_negatives(staged: Any) -> None:
    examples, recipe, model, _ = staged
    kept = replace(examples, keep_reference=False, candidates=None)
    stage = Candidates(model, Inputs(model, kept, recipe), recipe)
    batch = np.arange(7)
    target = np.asarray([examples.links.targets[q][0] for q in batch])
    target[3] = examples.links.reference[5]  # another query's reference
    rows, apart = stage._candidates(batch, target, chance(0))
    assert np.array_equal(rows, target)
    for i in batch:
        own = [*examples.links.targets[i], examples.links.reference[i]]
        assert apart[i].tolist() == [row in own for row in target]


def test_a_folder_for_words(tmp_path: Path, drawn: Dataset) -> None:
    from cir_rt.errors import UsageError

    with pytest.raises(UsageError, match="--init"):
        start(drawn, drawn.split("val"), Prune(), tmp_path / "words.json", None)


def test_only_what_was_trained_before_takes_the_towers_rate(
    drawn: Dataset, fresh: Checkpoint, tmp_path: Path
) -> None:
    """A stage I over another system's towers has a text encoder that nobody trained."""
    text = replace(Prune().text, settings=GROUNDED)
    recipe = Prune(text=text, frozen=False, learning_rate=1e-3, tower_learning_rate=1e-5)
    words = tmp_path / "words.json"
    model = start(drawn, drawn.split("val"), recipe, words, fresh.folder)
    assert model.pretrained == {"image"}
    rates = {
        id(parameter): group["lr"]
        for group in Learner(model, recipe).optimizer.param_groups
        for parameter in group["params"]
    }
    assert {rates[id(p)] for p in model.image.parameters()} == {1e-5}
    assert {rates[id(p)] for p in model.text.parameters()} == {1e-3}
    again = start(drawn, drawn.split("val"), replace(RECIPE, epochs=1), words, fresh.folder)
    assert again.pretrained == {"image", "text"}
