"""Check the checkpoint folder: what is refused, what survives the way to disk."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import untrained

from cir_rt.errors import CheckpointError, CirRtError, ConfigError
from cir_rt.export.checkpoint import hugging_face_kind, is_checkpoint, open_checkpoint
from cir_rt.export.models.storage import load_model, save_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("original")).folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "checkpoint")


def rewrite(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def test_a_checkpoint_opens(folder: Path) -> None:
    assert is_checkpoint(folder)
    assert hugging_face_kind(folder) is None
    config = open_checkpoint(str(folder)).config
    assert (config.system, config.dim, config.preprocess.size) == ("progressive", 32, 32)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} missing.*cir-rt train"):
        open_checkpoint(folder)


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json, model\.safetensors, tokenizer"):
        open_checkpoint(tmp_path)


def test_unknown_settings_name_the_nearest(folder: Path) -> None:
    rewrite(folder, contxt=3)
    with pytest.raises(ConfigError, match="Did you mean 'context'"):
        open_checkpoint(folder)


def test_another_format_is_refused(folder: Path) -> None:
    rewrite(folder, format=2)
    with pytest.raises(ConfigError, match="format 2 is not the format 1"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ["{", "[]", "null", "[1]"])
def test_a_configuration_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CirRtError, match=r"config\.json"):
        open_checkpoint(folder)


def test_a_broken_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CirRtError, match=r"tokenizer\.json"):
        open_checkpoint(folder).tokenizer()


@pytest.mark.parametrize("change", ["lacks", "more", "shape", "cut", "pickle"])
def test_weights_that_do_not_fit_are_refused(folder: Path, change: str) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    if change == "lacks":
        del state["compose.gate.bias"]
    elif change == "more":
        state["compose.extra"] = torch.ones(1)
    elif change == "shape":
        state["compose.gate.bias"] = torch.ones(3)
    save_file(state, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "pickle":
        path.write_bytes(pickle.dumps(state))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(open_checkpoint(folder))


def test_the_way_to_disk_keeps_every_bit(folder: Path, tmp_path: Path) -> None:
    model = load_model(open_checkpoint(folder))
    save_model(model, folder / "tokenizer.json", tmp_path / "copy")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()


def test_half_precision_rounds_once(folder: Path, tmp_path: Path) -> None:
    model = load_model(open_checkpoint(folder))
    copies = [tmp_path / "once", tmp_path / "twice"]
    for copy in copies:
        save_model(model, folder / "tokenizer.json", copy, torch.float16)
        model = load_model(open_checkpoint(copy))
    once, twice = (path.joinpath("model.safetensors").read_bytes() for path in copies)
    assert once == twice
    assert len(once) < 0.6 * (folder / "model.safetensors").stat().st_size
    before, after = load_model(open_checkpoint(folder)).state_dict(), model.state_dict()
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype
        assert torch.equal(after[key], tensor.half().to(tensor.dtype)), key


def test_no_file_is_a_pickle(checkpoint: Any) -> None:
    for path in checkpoint.folder.rglob("*"):
        if path.is_file() and not path.name.startswith("events.out.tfevents"):
            assert path.suffix in (".json", ".jsonl", ".safetensors", ".txt", ".jpg", ".md"), path
            assert not path.read_bytes().startswith((b"\x80", b"PK"))
