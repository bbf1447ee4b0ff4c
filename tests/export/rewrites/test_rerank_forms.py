"""Hold every form of the re-ranking graphs against the PyTorch module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from grounded_models import config
from reranking import Asked, Graphs, Model

from cir_rt.errors import CheckpointError, ConfigError, UsageError
from cir_rt.export.checkpoint import Checkpoint, ModelConfig, TowerSpec
from cir_rt.export.models.storage import save_model
from cir_rt.export.models.systems import build_model
from cir_rt.export.rewrites import graph
from cir_rt.export.rewrites.forms import CARRIED, FORMS, STATE, write_rerank_graphs
from cir_rt.export.rewrites.products import FloatProducts
from cir_rt.export.rewrites.weights import RerankWeights

EXACT = [form for form, (_, products) in FORMS.items() if products is FloatProducts]
INTEGER = [form for form in FORMS if form not in EXACT]
EARLY = 2


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(early=EARLY)


@pytest.fixture(scope="module")
def written(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graphs]:
    """Every form's graphs, for tokens as a gallery stores them."""
    folder = tmp_path_factory.mktemp("forms")
    return {form: Graphs(model, folder / form, form, early=True) for form in FORMS}


def far(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference, as a share of the largest score."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize(("k", "length", "places"), [(1, 1, 5), (7, 7, 5), (19, 19, 9), (3, 4, 1)])
def test_fp32_forms_are_the_module(
    model: Model, written: dict[str, Graphs], form: str, k: int, length: int, places: int
) -> None:
    asked = Asked(k, length, places)
    wanted = model.scores(asked)
    assert far(written[form].scores(asked), wanted) < 1e-4
    assert k == 1 or wanted.std() > 1e-2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_any_number_of_layers(tmp_path: Path, form: str, layers: int) -> None:
    model = Model(layers=layers)
    asked = Asked(7, coded=False)
    got = Graphs(model, tmp_path, form, tokens="float").scores(asked)
    assert far(got, model.scores(asked)) < (1e-4 if form in EXACT else 0.1)


@pytest.mark.parametrize("form", INTEGER)
@pytest.mark.parametrize("reduce_range", [False, True])
def test_integer_forms_keep_the_order(
    model: Model, tmp_path: Path, form: str, reduce_range: bool
) -> None:
    """Within a few hundredths of the scores' spread, and the best ones are the best ones."""
    asked = Asked(111)
    wanted = model.scores(asked)
    got = Graphs(model, tmp_path, form, reduce_range=reduce_range).scores(asked)
    assert np.abs(got - wanted).max() < (0.3 if reduce_range else 0.15) * wanted.std()
    assert np.corrcoef(got, wanted)[0, 1] > (0.99 if reduce_range else 0.998)
    best = set(np.argsort(-wanted)[:10]), set(np.argsort(-got)[:10])
    assert len(best[0] & best[1]) >= 8


@pytest.mark.parametrize("form", FORMS)
def test_tokens_may_come_as_numbers(model: Model, tmp_path: Path, form: str) -> None:
    """Integer forms quantize them as a gallery does, so that both give the same scores."""
    coded, numbers = Asked(7), Asked(7, coded=False)
    got = Graphs(model, tmp_path / "float", form, tokens="float").scores(numbers)
    if form in EXACT:
        assert far(got, model.scores(numbers)) < 1e-4
    else:
        stored = Graphs(model, tmp_path / "int8", form).scores(coded)
        assert far(got, stored) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_the_early_head_scores_and_the_late_layers_go_on(
    model: Model, written: dict[str, Graphs], form: str
) -> None:
    asked, graphs = Asked(19), written[form]
    state = graphs.state(asked)
    early = graphs.run("rerank_early", {**state, **asked.tokens()})
    wanted = model.scores(asked, early=True)
    assert far(early["scores"], wanted) < (1e-4 if form in EXACT else 0.1)
    kept = np.argsort(-early["scores"])[:7]
    carried = {name: early[name][kept] for name in CARRIED}
    late = graphs.run("rerank_late", {**state, **asked.tokens(kept), **carried})
    assert far(late["scores"], graphs.scores(asked)[kept]) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing(written: dict[str, Graphs], form: str) -> None:
    asked, padded = Asked(7, 5), Asked(7, 5)
    padded.ids = np.pad(asked.ids, ((0, 0), (0, 7)))
    assert far(written[form].scores(padded), written[form].scores(asked)) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_a_score_does_not_depend_on_its_neighbours(written: dict[str, Graphs], form: str) -> None:
    asked = Asked(19)
    together = written[form].scores(asked)
    alone = [written[form].scores(asked, np.asarray([k]))[0] for k in range(0, 19, 6)]
    assert far(np.asarray(alone), together[::6]) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_of_nothing_has_a_score(
    model: Model, written: dict[str, Graphs], form: str
) -> None:
    """Rows of zeros have no scale."""
    asked = Asked(3)
    asked.candidates[1] = 0
    asked.stored[1] = np.zeros((), asked.stored.dtype)
    wanted = model.scores(asked)
    assert far(written[form].scores(asked), wanted) < (1e-4 if form in EXACT else 0.1)


@torch.inference_mode()
def test_the_keys_bias_is_seen_by_nobody(tmp_path: Path) -> None:
    """It adds q.b to all scores of a row: softmax takes it off, so that graphs leave it out."""
    model, asked = Model(), Asked(7)
    before = model.scores(asked)
    width = model.rerank.config.width
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("keys_values.bias"):
            parameter[:width] += torch.randn(width, generator=generator)
    assert far(model.scores(asked), before) < 1e-5
    assert far(Graphs(model, tmp_path, "absorbed").scores(asked), before) < 1e-4
    for name, parameter in model.named_parameters():
        if name.endswith("keys_values.bias"):  # the values' is seen
            parameter[width:] += torch.randn(width, generator=generator)
    assert far(model.scores(asked), before) > 1e-2
    assert far(Graphs(model, tmp_path, "absorbed").scores(asked), model.scores(asked)) < 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_the_state_is_computed_once(written: dict[str, Graphs], form: str) -> None:
    """The candidates' graphs take all of it; its sizes are those of what is asked."""
    graphs = written[form]
    query = graphs.engines["rerank_query"]
    assert [spec.name for spec in query.outputs] == list(STATE)
    known = {size for spec in query.inputs for size in spec.shape}
    free = {size for spec in query.outputs for size in spec.shape if isinstance(size, str)}
    assert free <= known
    for role in ("rerank", "rerank_early", "rerank_late"):
        inputs = [spec.name for spec in graphs.engines[role].inputs]
        carried = CARRIED if role == "rerank_late" else ()
        assert sorted(inputs) == sorted((*STATE, "tokens", "scales", *carried))


def test_a_token_is_never_projected_when_absorbed(tmp_path: Path, model: Model) -> None:
    """No product with weights has an operand with an axis of places."""
    for form, projected in (("plain", True), ("absorbed", False)):
        path = write_rerank_graphs(model, tmp_path, form=form, early=False)["rerank"]
        inferred = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
        weights = {tensor.name for tensor in inferred.initializer}
        axes = {
            value.name: [d.dim_param for d in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.input)
        }
        found = [
            node.name
            for node in inferred.node
            if node.op_type == "MatMul"
            and node.input[1] in weights
            and "places" in axes[node.input[0]]
        ]
        assert bool(found) == projected


def rerank_checkpoint(folder: Path, **composer: int) -> tuple[Any, Checkpoint]:
    """A whole model's checkpoint, and the model."""
    shape = config(image_width=192, layers=3)
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(
            system="rerank",
            dim=20,
            image=TowerSpec(kind="conv", settings={"dim": 20}),
            text=TowerSpec(kind="grounded-text", settings=dict(vars(shape))),
            composer=composer,
            context=shape.context,
        )
    ).eval()
    words = folder / "words.json"
    words.write_text("{}")
    save_model(model, words, folder / "checkpoint")
    return model, Checkpoint(folder=folder / "checkpoint", config=model.config)


def test_weights_are_read_without_torch(tmp_path: Path) -> None:
    """A folder gives the same graphs as the model that it was saved from."""
    model, checkpoint = rerank_checkpoint(tmp_path, early_layers=1)
    weights = RerankWeights.read(checkpoint)
    assert weights.early_layers == 1
    files = []
    for name, source in (("model", model), ("folder", weights)):
        (tmp_path / name).mkdir()
        paths = write_rerank_graphs(source, tmp_path / name, form="absorbed-int8", early=True)
        files.append({role: path.read_bytes() for role, path in paths.items()})
    assert files[0] == files[1]


def test_wrong_checkpoints_are_refused(tmp_path: Path) -> None:
    _, checkpoint = rerank_checkpoint(tmp_path)
    weights = RerankWeights.read(checkpoint)
    cut = RerankWeights(
        shape=weights.shape,
        early_layers=0,
        arrays={k: v for k, v in weights.arrays.items() if k != "rerank.head.0.weight"},
    )
    with pytest.raises(CheckpointError, match=r"lack rerank\.head\.0\.weight"):
        write_rerank_graphs(cut, tmp_path, form="plain", early=False)
    checkpoint.weights.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not readable"):
        RerankWeights.read(checkpoint)
    other = ModelConfig(image=checkpoint.config.image, text=checkpoint.config.text)
    with pytest.raises(CheckpointError, match="a checkpoint of progressive, expected rerank"):
        RerankWeights.read(Checkpoint(folder=checkpoint.folder, config=other))


def test_wrong_wishes_are_refused(tmp_path: Path, model: Model) -> None:
    with pytest.raises(UsageError, match="Known forms: plain, absorbed"):
        write_rerank_graphs(model, tmp_path, form="absorbd", early=False)
    with pytest.raises(UsageError, match="tokens: float, int8"):
        write_rerank_graphs(model, tmp_path, form="plain", early=False, tokens="fp16")
    with pytest.raises(ConfigError, match="needs an early head"):
        write_rerank_graphs(Model(), tmp_path, form="plain", early=True)
    assert not list(tmp_path.iterdir())


def test_large_weights_lie_beside_the_graph(
    tmp_path: Path, model: Model, written: dict[str, Graphs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "LARGEST", 1000)
    asked = Asked(3)
    for _ in range(2):  # written over what is there
        graphs = Graphs(model, tmp_path, "plain")
    assert (tmp_path / "rerank.weights").stat().st_size > (tmp_path / "rerank.onnx").stat().st_size
    assert np.array_equal(graphs.scores(asked), written["plain"].scores(asked))


@pytest.mark.rtx
@pytest.mark.parametrize("form", EXACT)
def test_tensorrt_compiles_the_fp32_forms(tmp_path: Path, model: Model, form: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    for path in write_rerank_graphs(model, tmp_path, form=form, early=True).values():
        network = trt.Builder(logger).create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(path.read_bytes()), parser.get_error(0)
