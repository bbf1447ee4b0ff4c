"""A bundle's engines at work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir_rt.bundle import open_bundle, read_manifest
from cir_rt.encoder import Encoder
from cir_rt.errors import BackendMissing, BundleError, EngineMismatch, PictureError, TextError

TEXTS = ["in red", "the same but with long sleeves", "plain", "green instead of blue and longer"]


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Iterator[Encoder]:
    opened = Encoder.open(open_bundle(bundle), threads=1)
    yield opened
    opened.close()


def pictures(garments: Path, count: int) -> list[Path]:
    return sorted((garments / "images").glob("*-val-*.jpg"))[:count]


@pytest.mark.parametrize("count", [1, 7, 19, 111])
def test_vectors_are_of_unit_length_and_batch_is_single(
    encoder: Encoder, garments: Path, count: int
) -> None:
    paths = pictures(garments, count)
    vectors = encoder.encode_pictures(paths)
    assert (vectors.shape, vectors.dtype) == ((count, encoder.dim), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for k in {0, count // 2, count - 1}:
        alone = encoder.encode_pictures([paths[k]])
        np.testing.assert_allclose(alone[0], vectors[k], atol=1e-6)


def test_vectors_are_those_of_the_graph(encoder: Encoder, garments: Path, graphs: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    paths = pictures(garments, 40)
    session = onnxruntime.InferenceSession(str(graphs / "image.onnx"))
    (expected,) = session.run(None, {"pixels": encoder.preprocess(paths)})
    np.testing.assert_allclose(encoder.encode_pictures(paths), expected, atol=1e-6)
    session = onnxruntime.InferenceSession(str(graphs / "text.onnx"))
    (expected,) = session.run(None, {"ids": encoder.tokenizer(TEXTS)})
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected, atol=1e-6)


def test_texts_in_a_batch_are_as_alone(encoder: Encoder) -> None:
    together = encoder.encode_texts(TEXTS * 12)
    for k, text in enumerate(TEXTS):
        alone = encoder.encode_texts([text])[0]
        np.testing.assert_allclose(together[k :: len(TEXTS)], alone[None].repeat(12, 0), atol=1e-6)


def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    empty = (0, encoder.dim)
    assert encoder.encode_pictures([]).shape == empty
    assert encoder.encode_texts([]).shape == empty
    assert encoder.encode_pixels(np.zeros((0, 3, 32, 32), np.float32)).shape == empty
    assert encoder.encode_ids(np.zeros((0, 4), np.int64)).shape == empty


def test_texts_are_cut_and_bad_input_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    words = "red " * 100
    assert encoder.encode_texts([words]).shape == (1, encoder.dim)
    with pytest.raises(TextError, match="at most 24"):
        encoder.tokenizer([words])
    with pytest.raises(PictureError, match="no such file"):
        encoder.encode_pictures([tmp_path / "missing.jpg"])


def test_another_device_is_refused(bundle: Path) -> None:
    with pytest.raises(EngineMismatch, match="built for cpu, asked to run on cuda"):
        Encoder.open(open_bundle(bundle), device="cuda")


def test_an_unknown_backend_is_refused(bundle: Path) -> None:
    opened = open_bundle(bundle)
    target = replace(opened.manifest.target, backend="abacus")
    with pytest.raises(BackendMissing, match="abacus"):
        Encoder.open(replace(opened, manifest=replace(opened.manifest, target=target)))


@pytest.mark.parametrize("role", ["image", "text", "compose"])
def test_a_bundle_without_a_role_is_refused(bundle: Path, role: str) -> None:
    opened = open_bundle(bundle)
    roles = {k: v for k, v in opened.manifest.roles.items() if k != role}
    with pytest.raises(BundleError, match=f"no '{role}'"):
        Encoder.open(replace(opened, manifest=replace(opened.manifest, roles=roles)))


@pytest.mark.parametrize(("role", "field"), [("image", "preprocess"), ("text", "text")])
def test_a_manifest_without_settings_is_refused(bundle: Path, role: str, field: str) -> None:
    opened = open_bundle(bundle)
    roles = dict(opened.manifest.roles)
    roles[role] = replace(roles[role], **{field: None})
    with pytest.raises(BundleError, match="preprocess or text"):
        Encoder.open(replace(opened, manifest=replace(opened.manifest, roles=roles)))


def test_weights_of_another_kind_are_refused(bundle: Path) -> None:
    opened = open_bundle(bundle)
    roles = dict(opened.manifest.roles)
    roles["compose"] = replace(roles["compose"], file="tokenizer.json")
    with pytest.raises(BundleError, match="not a composition's weights"):
        Encoder.open(replace(opened, manifest=replace(opened.manifest, roles=roles)))


def test_the_manifest_knows_the_width(encoder: Encoder, bundle: Path) -> None:
    assert read_manifest(bundle).dim == encoder.dim
    assert encoder.device == "cpu"
