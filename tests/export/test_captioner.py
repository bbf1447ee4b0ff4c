"""Hold beam search against exhaustive search, and the captioner against plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Pieces
from tokenizers import processors
from torch import Tensor

from cir_rt.errors import CheckpointError, ConfigError, DataError
from cir_rt.export.models.beams import beam_search
from cir_rt.export.models.captioner import (
    CaptionerConfig,
    DifferenceCaptioner,
    captions,
    load_captioner,
    save_captioner,
)
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.towers import unit
from cir_rt.export.train.captioning import Captioning, Described, train_captioner, write_captions
from cir_rt.export.train.vocabulary import learn
from cir_rt.text import Tokenizer

CPU = torch.device("cpu")
END, VOCABULARY, LONGEST = 0, 4, 4


class Table:
    """Log-probabilities that hang on everything said before, by sequence and seed."""

    def __init__(self, seed: int, sequences: Sequence[int]) -> None:
        self.seed = seed
        self.said: list[tuple[int, ...]] = []
        self.sequences = sequences

    def after(self, sequence: int, prefix: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, sequence, *prefix])
        logits = 2 * rng.standard_normal(VOCABULARY)
        return logits - np.log(np.exp(logits).sum())

    def step(self, pieces: Tensor, parents: Tensor) -> Tensor:
        if not self.said:
            self.said = [()] * len(pieces)
        else:
            said = [self.said[p] for p in parents.tolist()]
            self.said = [(*s, p) for s, p in zip(said, pieces.tolist(), strict=True)]
        beams = len(self.said) // len(self.sequences)
        rows = [self.after(self.sequences[k // beams], s) for k, s in enumerate(self.said)]
        return torch.from_numpy(np.stack(rows))

    def mean(self, sequence: int, pieces: tuple[int, ...]) -> float:
        """The mean log-probability of the pieces and the end."""
        whole = (*pieces, END)
        return sum(self.after(sequence, whole[:k])[whole[k]] for k in range(len(whole))) / len(
            whole
        )


def searched(seed: int, sequences: Sequence[int], beams: int) -> list[tuple[int, ...]]:
    found = beam_search(
        Table(seed, sequences).step,
        len(sequences),
        beams=beams,
        longest=LONGEST,
        start=END,
        end=END,
        device=CPU,
    )
    assert found.shape == (len(sequences), LONGEST)
    return [tuple(p for p in row if p != END) for row in found.tolist()]


def every(pieces: Sequence[int], longest: int) -> list[tuple[int, ...]]:
    return [s for k in range(1, longest + 1) for s in itertools.product(pieces, repeat=k)]


@pytest.mark.parametrize("seed", range(7))
def test_wide_beams_search_exhaustively(seed: int) -> None:
    table = Table(seed, ())
    got = searched(seed, range(5), beams=27)  # all prefixes that may go on
    for sequence in range(5):
        best = max(every((1, 2, 3), LONGEST), key=lambda s, n=sequence: table.mean(n, s))
        assert got[sequence] == best


def looped(seed: int, sequence: int, beams: int) -> tuple[int, ...]:
    """Beam search with lists: all that end are compared, and the search never stops early."""
    table = Table(seed, ())
    alive: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for length in range(LONGEST + 1):
        going = []
        for total, said in alive:
            following = table.after(sequence, said)
            if said:
                ended.append(((total + following[END]) / (length + 1), said))
            going += [(total + following[p], (*said, p)) for p in range(VOCABULARY) if p != END]
        alive = sorted(going, reverse=True)[:beams]
    return max(ended)[1]


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_narrow_beams_are_a_plain_loop(beams: int) -> None:
    for seed in range(19):
        assert searched(seed, range(3), beams) == [looped(seed, n, beams) for n in range(3)]


def test_sequences_are_searched_by_themselves() -> None:
    together = searched(3, range(7), beams=3)
    assert together == [searched(3, [n], beams=3)[0] for n in range(7)]


CONFIG = CaptionerConfig(
    image_width=10,
    image_dim=6,
    vocabulary=5,
    longest=3,
    width=16,
    heads=2,
    layers=2,
    dropout=0.0,
)
MARKED = replace(CONFIG, vocabulary=7, start_id=5, end_id=6)


def captioner(config: CaptionerConfig = CONFIG, *, seed: int = 0) -> DifferenceCaptioner:
    torch.manual_seed(seed)
    model = DifferenceCaptioner(config).eval()
    torch.nn.init.normal_(model.words.weight, std=0.7)  # fresh logits hardly differ
    return model


def seen(n: int, seed: int = 0) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    vectors = unit(torch.randn(n, 6, generator=generator))
    return Encoded(vectors=vectors, tokens=torch.randn(n, 9, 10, generator=generator))


def mean_log_probability(model: DifferenceCaptioner, row: int, said: tuple[int, ...]) -> float:
    """Score a caption of CONFIG with one teacher-forced pass."""
    only = torch.tensor([row])
    logits = model(seen(7)[only], seen(7, 1)[only], torch.tensor([[0, *said]]))[0]
    following = [*said, 0]
    return float(logits.log_softmax(-1)[range(len(following)), following].mean())


@torch.inference_mode()
def test_captions_are_the_likeliest_of_all() -> None:
    """Beams with their cached past, against a full pass over each of the 84 captions."""
    model = captioner()
    wide = model.write(seen(7), seen(7, 1), beams=16).tolist()
    for row in range(7):
        best = max(every(range(1, 5), 3), key=lambda s, k=row: mean_log_probability(model, k, s))
        assert [p for p in wide[row] if p] == list(best)
    narrow = model.write(seen(7), seen(7, 1), beams=3).tolist()
    for row in range(7):
        likeliest, met = (
            mean_log_probability(model, row, tuple(p for p in ids[row] if p))
            for ids in (wide, narrow)
        )
        assert met <= likeliest + 1e-6


@torch.inference_mode()
def test_a_batch_of_pairs_is_its_rows() -> None:
    model = captioner()
    together = model.write(seen(7), seen(7, 1))
    for k in range(7):
        row = torch.tensor([k])
        assert torch.equal(model.write(seen(7)[row], seen(7, 1)[row])[0], together[k])


@torch.inference_mode()
def test_marks_are_written_by_nobody() -> None:
    ids = captioner(MARKED).write(seen(19), seen(19, 1))
    assert ids.shape == (19, 3)
    assert set(ids.unique().tolist()) <= {0, 1, 2, 3, 4}
    assert (ids[:, 0] != 0).all()


@torch.inference_mode()
def test_both_pictures_and_their_order_count() -> None:
    model = captioner()
    said = torch.tensor([[0, 1, 2]]).expand(7, 3)
    forward, back = model(seen(7), seen(7, 1), said), model(seen(7, 1), seen(7), said)
    assert float((forward - back).abs().max()) > 1e-2
    assert float((forward - model(seen(7, 2), seen(7, 1), said)).abs().max()) > 1e-2
    assert float((forward - model(seen(7), seen(7, 2), said)).abs().max()) > 1e-2


@torch.inference_mode()
def test_what_comes_later_is_not_read() -> None:
    model = captioner()
    a, b = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 1, 4, 4]])
    one = seen(1), seen(1, 1)
    assert torch.allclose(model(*one, a)[:, :2], model(*one, b)[:, :2], atol=1e-6)
    assert not torch.allclose(model(*one, a)[:, 2], model(*one, b)[:, 2], atol=1e-3)


@pytest.mark.parametrize("config", [CONFIG, MARKED])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_a_loop_over_pieces(config: CaptionerConfig, weighted: bool) -> None:
    model = captioner(config)
    said = [(1, 2, 3), (4,), (2, 2), (3, 1, 4), (1, 4)]
    marked = config.start_id is not None
    written = [(5, *s, 6) if marked else s for s in said]
    ids = torch.tensor([[*w, *[0] * (5 - len(w))] for w in written])[:, : 5 if marked else 3]
    weights = [1.0, 0.5, 0.5, 1.0, 0.25] if weighted else [1.0] * 5
    total = counted = 0.0
    for k, pieces in enumerate(said):
        row = torch.tensor([k])
        begin, end = (5, 6) if marked else (0, 0)
        logits = model(seen(5)[row], seen(5, 1)[row], torch.tensor([[begin, *pieces]]))[0]
        for place, piece in enumerate((*pieces, end)):
            total -= weights[k] * float(logits[place].log_softmax(-1)[piece].detach())
            counted += weights[k]
    given = torch.tensor(weights) if weighted else None
    got = model.loss(seen(5), seen(5, 1), ids, given)
    assert float(got.detach()) == pytest.approx(total / counted, rel=1e-5)


def test_every_parameter_learns() -> None:
    model = captioner().train()
    model.loss(seen(7), seen(7, 1), torch.randint(1, 5, (7, 3))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_wrong_inputs_are_refused() -> None:
    model = captioner()
    with pytest.raises(ValueError, match="captions of 4 pieces, expected at most 3"):
        model.loss(seen(1), seen(1, 1), torch.ones(1, 4, dtype=torch.int64))
    other = Encoded(vectors=seen(1).vectors, tokens=seen(1).tokens[:, :4])
    with pytest.raises(ValueError, match="expected both pictures from one tower"):
        model.write(seen(1), other)
    with pytest.raises(ValueError, match="expected both, or neither"):
        replace(CONFIG, start_id=3)
    with pytest.raises(ValueError, match="pad_id 0 is a mark"):
        replace(CONFIG, start_id=0, end_id=1)
    with pytest.raises(ValueError, match="not a multiple of heads 3"):
        replace(CONFIG, heads=3)


def test_a_captioner_comes_back_from_disk(tmp_path: Path) -> None:
    model = captioner(MARKED)
    save_captioner(model, tmp_path)
    back = load_captioner(tmp_path)
    assert back.config == MARKED
    assert torch.equal(back.write(seen(7), seen(7, 1)), model.write(seen(7), seen(7, 1)))
    (tmp_path / "captioner.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a readable captioner"):
        load_captioner(tmp_path)
    (tmp_path / "captioner.json").write_text('{"widht": 3}', encoding="utf-8")
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        load_captioner(tmp_path)


SAYINGS = ("the same but in red", "is longer", "has dots instead of stripes", "no sleeves")


@pytest.fixture(scope="module", params=["bare", "marked"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkpoint's tokenizer, and one that writes marks as CLIP's does."""
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    learn(SAYINGS * 3, 400, path)
    if request.param == "marked":
        pieces = Pieces.from_file(str(path))
        pieces.add_special_tokens(["<start>", "<end>"])
        marks = [(name, pieces.token_to_id(name)) for name in ("<start>", "<end>")]
        pieces.post_processor = processors.TemplateProcessing(
            single="<start> $A <end>", special_tokens=marks
        )
        pieces.save(str(path))
    return path


def test_pairs_are_learnt_by_heart_and_written_as_text(tokenizer: Path) -> None:
    """Twelve pairs, four sayings that only the difference tells apart, in 60 epochs."""
    pieces = Pieces.from_file(str(tokenizer))
    words = Tokenizer(tokenizer, context=32, pad_id=0)
    first = words([SAYINGS[0]])[0]
    marked = pieces.token_to_id("<start>") is not None
    generator = torch.Generator().manual_seed(0)
    changes, tokens = torch.randn(4, 10, generator=generator), torch.randn(12, 9, 10)
    told = torch.arange(12) % 4
    vectors = unit(torch.randn(24, 6, generator=generator))
    both = torch.cat([tokens, tokens + changes[told][:, None]])
    table = Encoded(vectors=vectors, tokens=both.half())
    config = CaptionerConfig(
        image_width=10,
        image_dim=6,
        vocabulary=pieces.get_vocab_size(),
        longest=int(words(SAYINGS).shape[1]),
        start_id=int(first[0]) if marked else None,
        end_id=int(first[-1]) if marked else None,
        width=32,
        heads=2,
        layers=1,
    )
    described = Described(
        reference=np.arange(12),
        target=np.arange(12, 24),
        ids=words([SAYINGS[k] for k in told.tolist()]),
        weights=np.ones(12, np.float32),
    )
    settings = Captioning(epochs=60, captions=12, learning_rate=1e-2)
    losses: list[float] = []
    written = []
    for _ in range(2):
        torch.manual_seed(1)
        model = DifferenceCaptioner(config)
        train_captioner(
            model, table, described, settings, seed=3, progress=lambda _, loss: losses.append(loss)
        )
        pairs = np.stack([described.reference, described.target], axis=1)
        written.append(write_captions(model, table, pairs, pieces))
    assert written[0] == [SAYINGS[k] for k in told.tolist()]
    assert math.isclose(losses[0], math.log(config.vocabulary), rel_tol=0.1)  # starts from chance
    assert losses[:60] == losses[60:]  # the seed decides
    none = np.empty(0, np.int64)
    nothing = replace(described, reference=none, target=none)
    with pytest.raises(DataError, match="no captioned pair"):
        train_captioner(model, table, nothing, settings)


def test_captions_hold_no_marks(tokenizer: Path) -> None:
    ids = Tokenizer(tokenizer, context=32, pad_id=0)(SAYINGS)
    assert captions(torch.from_numpy(ids), Pieces.from_file(str(tokenizer))) == list(SAYINGS)
