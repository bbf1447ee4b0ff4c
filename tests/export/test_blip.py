"""Hold BLIP folders against transformers: tokens, pixels, every block, z_t and the query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_models import SAYINGS
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
)

from cir_rt.cli import cli
from cir_rt.config import from_dict, to_dict
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import ModelConfig
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.models.blip import BlipImageConfig, BlipImageTower, our_weights, read_blip
from cir_rt.export.models.prune import Prune, PruneConfig
from cir_rt.text import Tokenizer

TEXTS = ["the same but in red!", "Longer", "has DOTS, not stripes", "naïve café", "formal " * 7]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-3,
    "initializer_range": 0.1,
}


def words(folder: Path) -> BertTokenizerFast:
    """Learn a small vocabulary in BERT's own form."""
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(SAYINGS, vocab_size=200, min_frequency=1, show_progress=False)
    (vocabulary,) = pieces.save_model(str(folder))
    return BertTokenizerFast(vocab=vocabulary)


def config(vocabulary: int) -> BlipConfig:
    text = {**TEXT, "vocab_size": vocabulary, "bos_token_id": vocabulary - 2}
    return BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BLIP folder with random weights, as transformers writes it."""
    path = tmp_path_factory.mktemp("blip")
    tokenizer = words(path)
    torch.manual_seed(0)
    blip = BlipForImageTextRetrieval(config(len(tokenizer) + 2)).eval()
    for parameter in blip.parameters():  # norms and biases that are not the identity
        parameter.data += 0.1 * torch.randn_like(parameter)
    blip.save_pretrained(path)
    tokenizer.save_pretrained(path)
    values = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "do_resize": True}
    (path / "preprocessor_config.json").write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return BlipForImageTextRetrieval.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def read(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelConfig, BlipImageTower, Prune, Tokenizer]:
    """The folder as ours, by way of the configuration's JSON."""
    tokenizer = tmp_path_factory.mktemp("words") / "tokenizer.json"
    found, weights = read_blip(folder, tokenizer)
    model_config = from_dict(ModelConfig, json.loads(json.dumps(to_dict(found))))
    image = BlipImageTower(from_dict(BlipImageConfig, model_config.image.settings))
    prune = Prune(from_dict(PruneConfig, model_config.text.settings))
    for prefix, module in (("image.", image), ("text.", prune)):
        own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        module.load_state_dict(own)
    context, pad = model_config.context, model_config.pad_id
    return (
        model_config,
        image.eval(),
        prune.eval(),
        Tokenizer(tokenizer, context=context, pad_id=pad),
    )


def pixels(n: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(n).standard_normal((n, 3, 32, 32), np.float32))


def assert_close(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() < 1e-5


def asked(folder: Path) -> tuple[Tensor, Tensor]:
    """Ids and mask as transformers' tokenizer gives them, [ENC] in the first place."""
    pieces = BertTokenizerFast.from_pretrained(folder)
    inputs = pieces(TEXTS, padding=True, return_tensors="pt")
    inputs["input_ids"][:, 0] = len(pieces) + 1
    return inputs["input_ids"], inputs["attention_mask"]


def test_the_configuration_is_the_folders(read: Any, theirs: Any) -> None:
    found, image, prune, _ = read
    text = prune.encoder.config
    shape = (found.system, found.dim, found.context, found.preprocess.size)
    assert shape == ("rerank-prune", 20, 40, 32)
    widths = (image.width, text.image_width, text.width, text.inner, text.heads)
    assert widths == (24, 24, 32, 48, 4)
    vocabulary = theirs.config.text_config.vocab_size
    assert (text.vocabulary, text.enc_id) == (vocabulary, vocabulary - 1)
    assert (found.preprocess.mean, found.preprocess.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert text.dropout == 0.1


def test_tokens_are_transformers_own(folder: Path, read: Any) -> None:
    ids, mask = asked(folder)
    ours = read[3](TEXTS)
    assert np.array_equal(ours[:, 1:], ids[:, 1:].numpy())
    assert torch.equal(read[2].mask(torch.from_numpy(ours)), mask.bool())


@torch.inference_mode()
def test_pictures_are_transformers_own(read: Any, theirs: Any) -> None:
    _, image, _, _ = read
    for n in (1, 7):
        seen = image.read(pixels(n))
        tokens = theirs.vision_model(pixel_values=pixels(n)).last_hidden_state
        assert_close(seen.tokens, tokens)
        wanted = torch.nn.functional.normalize(theirs.vision_proj(tokens[:, 0]), dim=-1)
        assert_close(seen.vectors, wanted)
        assert_close(image(pixels(n)), wanted)


@torch.inference_mode()
def test_z_and_query_are_transformers_own(folder: Path, read: Any, theirs: Any) -> None:
    """Padding aside, which nothing reads."""
    _, image, prune, tokenizer = read
    tokens = image.read(pixels(len(TEXTS))).tokens
    ids, mask = asked(folder)
    said = theirs.text_encoder(
        input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens, is_decoder=False
    ).last_hidden_state
    ours = torch.from_numpy(tokenizer(TEXTS))
    assert_close(prune.read(tokens, ours)[mask.bool()], said[mask.bool()])
    wanted = torch.nn.functional.normalize(theirs.text_proj(said[:, 0]), dim=-1)
    assert_close(prune(tokens, ours), wanted)


@torch.inference_mode()
def test_every_block_is_transformers_own(folder: Path, read: Any, theirs: Any) -> None:
    encoder = read[2].encoder
    ids, _ = asked(folder)
    x = theirs.text_encoder.embeddings(input_ids=ids)
    assert_close(encoder.embedding(ids), x)
    tokens = torch.randn(len(ids), 5, 24, generator=torch.Generator().manual_seed(0))
    bias = torch.zeros(len(ids), 1, 1, ids.shape[1])
    assert len(encoder.layers) == len(theirs.text_encoder.encoder.layer) == 3
    for ours, layer in zip(encoder.layers, theirs.text_encoder.encoder.layer, strict=True):
        before, attended = x, layer.attention(x)[0]
        assert_close(ours.reading.attend(x, bias), attended)
        seen = layer.crossattention(attended, encoder_hidden_states=tokens)[0]
        looked = ours.reading.look(attended, tokens)
        assert_close(ours.reading.add(attended, looked), seen)
        after = layer(x, encoder_hidden_states=tokens)
        x = after if isinstance(after, Tensor) else after[0]  # a tuple before version 5
        assert_close(ours(before, tokens, bias), x)


def test_base_geometry_is_transformers_own() -> None:
    """At BLIP-base's size every weight has its place, and none is left over but their head."""
    with torch.device("meta"):
        theirs = BlipForImageTextRetrieval(BlipConfig(text_config={"num_attention_heads": 12}))
        image, prune = BlipImageTower(BlipImageConfig()), Prune(PruneConfig())
        renamed = our_weights(theirs.state_dict())
    ours = {f"image.{k}": v.shape for k, v in image.state_dict().items()}
    ours |= {f"text.{k}": v.shape for k, v in prune.state_dict().items()}
    assert {k: v.shape for k, v in renamed.items()} == ours
    count = sum(p.numel() for module in (image, prune) for p in module.parameters())
    assert count == sum(p.numel() for p in theirs.parameters()) - 2 * 768 - 2


def test_a_folder_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    BlipForConditionalGeneration(config(40)).save_pretrained(tmp_path)
    words(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no whole BlipForImageTextRetrieval"):
        read_blip(tmp_path, tmp_path / "out/tokenizer.json")


def test_a_folder_that_does_not_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        read_blip(tmp_path, tmp_path / "tokenizer.json")


def test_a_folder_is_trained_and_evaluated_from_the_command_line(
    folder: Path, drawn: Dataset, tmp_path: Path
) -> None:
    """The way of docs/train.md: a BLIP folder, stage I, stage II, the dataset's own recall."""

    def call(*arguments: object) -> dict[str, Any]:
        result = CliRunner().invoke(cli, [*map(str, arguments), "--threads", "1", "--json"])
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    few, data = tmp_path / "few.toml", ("--data", drawn.folder)
    few.write_text("pictures = 32\nqueries = 8\n", encoding="utf-8")
    one, two = tmp_path / "one", tmp_path / "two"
    length = ("--config", few, "--epochs", 1)
    call("train", "rerank-prune", *data, "--init", folder, "--out", one, *length)
    call("train", "rerank", *data, "--init", one, "--out", two, *length)
    stage_one = call("evaluate", one, *data)
    both = call("evaluate", one, "--reranker", two, "--rerank", 5, *data)
    assert (stage_one["rerank"], both["rerank"]) == (0, 5)
    assert stage_one["recall"]["R@10"] == both["recall"]["R@10"]
    assert "rerank-prune" in (one / "README.md").read_text(encoding="utf-8")
    again = call("train", "rerank", *data, "--init", folder, "--out", two, *length)
    assert again["parameters"]["rerank"] > again["parameters"]["text"]
