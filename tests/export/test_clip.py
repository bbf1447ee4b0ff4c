"""Hold CLIP folders against transformers: tokens, pixels, vectors, and the exported graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import RECIPE, SAYINGS
from tokenizers import Tokenizer as Pieces
from tokenizers import models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from cir_rt.calibration.samples import Samples
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import Checkpoint, hugging_face_kind, open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.models.clip import read_clip
from cir_rt.export.models.storage import load_model, save_model
from cir_rt.export.models.systems import build_model
from cir_rt.export.onnx_export import export_graphs
from cir_rt.export.train.run import train

LEGACY = 2  # what CLIP's first configurations call their end mark; the largest id is meant
TEXTS = [
    "the same but in red!",
    "Longer",
    "has DOTS, instead of stripes; is 2 sizes larger",
    "naïve café — 红色",
    "it's   more   formal",
]


def tokenizer() -> CLIPTokenizer:
    """Learn a small vocabulary in CLIP's own form."""
    pieces = Pieces(models.BPE(end_of_word_suffix="</w>"))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    pieces.train_from_iterator(SAYINGS, trainer)
    model = json.loads(pieces.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    ends = [f"{letter}</w>" for letter in sorted(alphabet)]
    for piece in (*ends, "<|startoftext|>", "<|endoftext|>"):
        vocabulary.setdefault(piece, len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(m) for m in model["merges"]])


@pytest.fixture(scope="module", params=["named end", "legacy end"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP folder with random weights, as transformers writes it."""
    folder = tmp_path_factory.mktemp("clip")
    words = tokenizer()
    end = LEGACY if request.param == "legacy end" else words.eos_token_id
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(words),
        "max_position_embeddings": 40,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": end,
        "hidden_act": "gelu",
    }
    vision = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-3,
    }
    torch.manual_seed(0)
    config = CLIPConfig(projection_dim=24, text_config=text, vision_config=vision)
    CLIPModel(config).eval().save_pretrained(folder)
    words.save_pretrained(folder)
    values = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def opened(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The folder as a checkpoint of ours, with a fresh composition."""
    folder = tmp_path_factory.mktemp("opened")
    config, weights = read_clip(clip, folder / "tokenizer.json")
    model = build_model(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not [key for key in missing if key.startswith(("image.", "text."))]
    save_model(model, folder / "tokenizer.json", folder)
    return open_checkpoint(folder)


@torch.inference_mode()
def expected(clip: Path, kind: str, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    model = CLIPModel.from_pretrained(clip).eval()
    features = getattr(model, f"get_{kind}_features")(**inputs)
    features = getattr(features, "pooler_output", features)  # a plain tensor before version 5
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, 3, 32, 32), np.float32)


def theirs(clip: Path) -> dict[str, torch.Tensor]:
    return dict(CLIPTokenizer.from_pretrained(clip)(TEXTS, padding=True, return_tensors="pt"))


def test_the_folder_is_recognised(clip: Path, opened: Checkpoint) -> None:
    assert hugging_face_kind(clip) == "clip"
    assert hugging_face_kind(opened.folder) is None


def test_the_configuration_is_the_folders(opened: Checkpoint) -> None:
    config = opened.config
    assert (config.dim, config.context, config.image.kind) == (24, 40, "clip-image")
    preprocess = config.preprocess
    assert (preprocess.size, preprocess.fit) == (32, "crop")
    assert (preprocess.mean, preprocess.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def test_tokens_are_transformers_own(clip: Path, opened: Checkpoint) -> None:
    inputs = theirs(clip)
    ids = opened.tokenizer()(TEXTS)
    assert ids.shape == tuple(inputs["input_ids"].shape)
    lengths = inputs["attention_mask"].sum(1)
    for ours, row, length in zip(ids, inputs["input_ids"].numpy(), lengths, strict=True):
        assert np.array_equal(ours[:length], row[:length])


def test_long_texts_keep_their_end_mark(clip: Path, opened: Checkpoint) -> None:
    words = CLIPTokenizer.from_pretrained(clip)
    cut = words(["red dots " * 30], truncation=True, max_length=40)["input_ids"]
    assert np.array_equal(opened.tokenizer()(["red dots " * 30], truncate=True), cut)


def test_vectors_are_transformers_own(clip: Path, opened: Checkpoint) -> None:
    model = load_model(opened)
    with torch.inference_mode():
        for n in (1, 7):
            shown = torch.from_numpy(pixels(n))
            wanted = expected(clip, "image", {"pixel_values": shown})
            assert np.abs(model.image(shown).numpy() - wanted).max() < 1e-5
        said = model.text(torch.from_numpy(opened.tokenizer()(TEXTS))).numpy()
    assert np.abs(said - expected(clip, "text", theirs(clip))).max() < 1e-5


def test_graphs_are_transformers_own(clip: Path, opened: Checkpoint, tmp_path: Path) -> None:
    parity = export_graphs(opened, tmp_path)
    assert {role: p.real_inputs for role, p in parity.items()} == {"image": None, "text": None}
    image, text = (OnnxRuntimeEngine(tmp_path / f"{role}.onnx") for role in ("image", "text"))
    wanted = expected(clip, "image", {"pixel_values": torch.from_numpy(pixels(7))})
    assert np.abs(image.run({"pixels": pixels(7)})["vector"] - wanted).max() < 1e-5
    said = text.run({"ids": opened.tokenizer()(TEXTS)})["vector"]
    assert np.abs(said - expected(clip, "text", theirs(clip))).max() < 1e-5
    assert (tmp_path / "image.onnx").stat().st_size < 150_000


def test_calibration_shows_whole_captions(opened: Checkpoint) -> None:
    """What the text engine reads in calibration gives the vectors of the captions themselves."""
    words = opened.tokenizer()
    samples = Samples(pixels=pixels(1), ids=words(TEXTS), pad_id=words.pad_id)
    (feed,) = samples.feeds("text")
    text = load_model(opened).text
    with torch.inference_mode():
        got = text(torch.from_numpy(feed["ids"])).numpy()
        alone = np.concatenate([text(torch.from_numpy(words([t]))).numpy() for t in TEXTS])
    assert np.abs(got @ alone.T).max(1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_training_starts_from_the_towers(clip: Path, drawn: Dataset, tmp_path: Path) -> None:
    seen: list[Any] = []
    train(drawn, tmp_path, RECIPE, init=clip, epochs=1, progress=seen.append)
    checkpoint = open_checkpoint(tmp_path)
    model = load_model(checkpoint)
    shown = torch.from_numpy(pixels(7))
    with torch.inference_mode():
        got = model.image(shown).numpy()
    wanted = expected(clip, "image", {"pixel_values": shown})
    assert seen
    assert 0 < np.abs(got - wanted).max() < 0.05  # moved, but at the towers' own small rate
    assert (tmp_path / "calibration").is_dir()


def test_a_folder_that_does_not_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        read_clip(tmp_path, tmp_path / "tokenizer.json")
