"""What every engine does, held against numpy: one suite that each kind of engine passes.

class TestMyEngine(Conformance):
    @pytest.fixture(scope="class")
    def kind(self) -> Kind: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cir_rt.engines import Engine, TensorSpec
from cir_rt.errors import BundleError, EngineMismatch

WEIGHT = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
ROWS = [0, 1, 7, 19, 111, 989]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a kind of engine is opened from ONNX, and how arrays come to its device and back."""

    open: Callable[[Path], Engine]
    device: str
    place: Callable[[np.ndarray], Any] | None = None  # None: it takes numpy arrays alone
    fetch: Callable[[Any], np.ndarray] = np.asarray
    rows: tuple[int, ...] = tuple(ROWS)  # the batch sizes that it takes
    atol: float = 1e-5


def write_graph(folder: Path) -> Path:
    """Write x (batch, 5) float32, n (batch, 1) int64 -> sum = x W + n, double = 2 x."""
    node = helper.make_node
    float_, whole = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "w"], ["product"], "product"),
            node("Cast", ["n"], ["shift"], "shift", to=float_),
            node("Add", ["product", "shift"], ["sum"], "sum"),
            node("Add", ["x", "x"], ["double"], "double"),
        ],
        "conformance",
        [
            helper.make_tensor_value_info("x", float_, ["batch", 5]),
            helper.make_tensor_value_info("n", whole, ["batch", 1]),
        ],
        [
            helper.make_tensor_value_info("sum", float_, ["batch", 3]),
            helper.make_tensor_value_info("double", float_, ["batch", 5]),
        ],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file = folder / "graph.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def feed(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((rows, 5)).astype(np.float32),
        "n": rng.integers(-9, 9, (rows, 1)),
    }


def room(rows: int) -> dict[str, np.ndarray]:
    """Return arrays for the outputs, full of what no output is."""
    return {
        "sum": np.full((rows, 3), np.nan, np.float32),
        "double": np.full((rows, 5), np.nan, np.float32),
    }


def oracle(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = inputs["x"].astype(np.float64)
    return {"sum": x @ WEIGHT + inputs["n"], "double": 2 * x}


def check(found: dict[str, Any], inputs: dict[str, np.ndarray], kind: Kind) -> None:
    expected = oracle(inputs)
    assert set(found) == set(expected)
    for name, array in found.items():
        host = kind.fetch(array)
        assert host.dtype == np.float32
        np.testing.assert_allclose(host, expected[name], atol=kind.atol)


class Conformance:
    """Subclass it and give `kind`."""

    @pytest.fixture(scope="class")
    def path(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_graph(tmp_path_factory.mktemp("engines"))

    @pytest.fixture(scope="class")
    def engine(self, kind: Kind, path: Path) -> Iterator[Engine]:
        opened = kind.open(path)
        yield opened
        opened.close()

    @pytest.fixture
    def place(self, kind: Kind) -> Callable[[np.ndarray], Any]:
        if kind.place is None:
            pytest.skip(f"an engine on {kind.device} takes numpy arrays alone")
        return kind.place

    def test_specs(self, engine: Engine) -> None:
        assert engine.inputs == (
            TensorSpec(name="x", dtype="float32", shape=("batch", 5)),
            TensorSpec(name="n", dtype="int64", shape=("batch", 1)),
        )
        assert engine.outputs == (
            TensorSpec(name="sum", dtype="float32", shape=("batch", 3)),
            TensorSpec(name="double", dtype="float32", shape=("batch", 5)),
        )

    def test_it_says_where_it_runs(self, engine: Engine, kind: Kind) -> None:
        assert engine.device == kind.device
        assert f"device={kind.device}" in repr(engine)

    @pytest.mark.parametrize("rows", ROWS)
    def test_sizes(self, engine: Engine, kind: Kind, rows: int) -> None:
        if rows not in kind.rows:
            pytest.skip(f"{rows} rows are not among those it was built for")
        inputs = feed(rows)
        for _ in range(3):  # also once it has warmed up
            check(engine.run(inputs), inputs, kind)

    def test_batch_is_single(self, engine: Engine) -> None:
        inputs = feed(19)
        whole = engine.run(inputs)
        for k in range(19):
            alone = engine.run({name: array[k : k + 1] for name, array in inputs.items()})
            for name in whole:
                np.testing.assert_allclose(alone[name][0], whole[name][k], atol=1e-6)

    def test_inputs_need_not_be_contiguous_nor_in_order(self, engine: Engine, kind: Kind) -> None:
        inputs, out = feed(14), room(14)
        wide = np.zeros((14, 10), np.float32)
        wide[:, ::2] = inputs["x"]
        check(engine.run({"n": inputs["n"], "x": wide[:, ::2]}), inputs, kind)
        turned = {name: array[::-1] for name, array in inputs.items()}
        check(engine.run(turned), turned, kind)
        check(engine.run({"n": inputs["n"], "x": wide[:, ::2]}, out=out), inputs, kind)

    def test_out_is_written_in_place(self, engine: Engine, kind: Kind) -> None:
        out = room(7)
        for seed in (0, 1, 2):
            inputs = feed(7, seed)
            found = engine.run(inputs, out=dict(reversed(out.items())))
            assert found["sum"] is out["sum"]
            assert found["double"] is out["double"]
            check(out, inputs, kind)

    def test_results_do_not_share_memory(self, engine: Engine, kind: Kind) -> None:
        inputs = feed(7)
        first = engine.run(inputs)
        engine.run(feed(7, 1))
        check(first, inputs, kind)
        first["sum"][:] = 0
        check(engine.run(inputs), inputs, kind)

    def test_inputs_are_left_alone(self, engine: Engine) -> None:
        inputs = feed(7)
        before = {name: array.copy() for name, array in inputs.items()}
        for array in inputs.values():
            array.flags.writeable = False
        engine.run(inputs)
        for name, array in inputs.items():
            np.testing.assert_array_equal(array, before[name])

    @pytest.mark.parametrize("rows", [1, 7])
    def test_arrays_on_the_device(
        self, engine: Engine, kind: Kind, place: Callable[[np.ndarray], Any], rows: int
    ) -> None:
        out = {name: place(array) for name, array in room(rows).items()}
        for seed in (0, 1, 2):
            inputs = feed(rows, seed)
            found = engine.run({name: place(a) for name, a in inputs.items()}, out=out)
            assert all(found[name] is out[name] for name in out)
            check(found, inputs, kind)

    def test_device_and_host_arrays_may_be_mixed(
        self, engine: Engine, kind: Kind, place: Callable[[np.ndarray], Any]
    ) -> None:
        inputs, out = feed(7), room(7)
        check(engine.run({"x": place(inputs["x"]), "n": inputs["n"]}), inputs, kind)
        mixed = {"sum": place(out["sum"]), "double": out["double"]}
        check(engine.run({"x": inputs["x"], "n": place(inputs["n"])}, out=mixed), inputs, kind)

    def test_a_device_array_of_another_type_or_shape_is_refused(
        self, engine: Engine, place: Callable[[np.ndarray], Any]
    ) -> None:
        inputs, out = feed(2), room(2)
        for wrong in (np.zeros((2, 6), np.float32), np.zeros((2, 5), np.float64)):
            with pytest.raises(EngineMismatch, match="expected x float32"):
                engine.run({**inputs, "x": place(wrong)})
        with pytest.raises(EngineMismatch, match="expected sum float32"):
            engine.run(inputs, out={**out, "sum": place(np.zeros((3, 3), np.float32))})

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"x": np.zeros((2, 6), np.float32)}, "expected x float32.*got float32.*6"),
            ({"x": np.zeros(5, np.float32)}, "expected x float32"),
            ({"x": np.zeros((2, 5, 1), np.float32)}, "expected x float32"),
            ({"x": np.zeros((2, 5), np.float64)}, "expected x float32.*got float64"),
            ({"n": np.zeros((2, 1), np.int32)}, "expected n int64.*got int32"),
            ({"n": np.zeros((3, 1), np.int64)}, "expected n int64.*batch = 2.*3, 1"),
            ({"x": [[0.0] * 5] * 2}, "expected x float32.*got list"),
            ({"x": None}, "expected x float32.*got NoneType"),
            ({"y": np.zeros((2, 5), np.float32)}, r"unknown inputs \['y'\]. Expected: x, n"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, engine: Engine, change: dict, said: str) -> None:
        with pytest.raises(EngineMismatch, match=said):
            engine.run({**feed(2), **change})

    def test_a_missing_input_is_refused(self, engine: Engine) -> None:
        with pytest.raises(EngineMismatch, match="expected n int64"):
            engine.run({"x": feed(2)["x"]})

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((2, 4), np.float32),
            np.zeros((2, 3), np.float64),
            np.zeros((2, 3), np.int64),
            np.zeros((3, 3), np.float32),
            np.zeros((2, 6), np.float32)[:, ::2],
            np.broadcast_to(np.float32(0), (2, 3)),
            [[0.0] * 3] * 2,
        ],
        ids=["shape", "float64", "int64", "rows", "strided", "broadcast", "list"],
    )
    def test_an_out_that_does_not_fit_is_refused(self, engine: Engine, wrong: Any) -> None:
        with pytest.raises(EngineMismatch, match="sum float32"):
            engine.run(feed(2), out={**room(2), "sum": wrong})

    def test_an_out_that_is_missing_unknown_or_read_only_is_refused(self, engine: Engine) -> None:
        out = room(2)
        with pytest.raises(EngineMismatch, match="expected sum float32"):
            engine.run(feed(2), out={"double": out["double"]})
        with pytest.raises(EngineMismatch, match=r"unknown out \['third'\]. Expected: sum, double"):
            engine.run(feed(2), out={**out, "third": out["sum"]})
        out["sum"].flags.writeable = False
        with pytest.raises(EngineMismatch, match=r"sum float32.*writable"):
            engine.run(feed(2), out=out)

    def test_a_refused_run_does_no_harm(self, engine: Engine, kind: Kind) -> None:
        inputs = feed(2)
        with pytest.raises(EngineMismatch):
            engine.run({**inputs, "x": inputs["x"][:, :3]})
        check(engine.run(inputs), inputs, kind)

    def test_it_runs_on_the_thread_that_asks(self, engine: Engine, kind: Kind) -> None:
        with ThreadPoolExecutor(1) as owner:
            for seed in range(3):
                inputs = feed(7, seed)
                check(owner.submit(engine.run, inputs).result(), inputs, kind)

    def test_two_engines_at_once(self, engine: Engine, kind: Kind, path: Path) -> None:
        def work(which: Engine, seed: int) -> list[dict[str, np.ndarray]]:
            return [which.run(feed(7, seed + k)) for k in range(20)]

        other = kind.open(path)
        with ThreadPoolExecutor(2) as owners:
            jobs = [owners.submit(work, e, seed) for e, seed in ((engine, 0), (other, 100))]
            for job, seed in zip(jobs, (0, 100), strict=True):
                for k, found in enumerate(job.result()):
                    check(found, feed(7, seed + k), kind)
        other.close()
        check(engine.run(feed(7)), feed(7), kind)

    def test_a_closed_engine_says_so(self, kind: Kind, path: Path) -> None:
        engine = kind.open(path)
        engine.close()
        engine.close()
        with pytest.raises(EngineMismatch, match="closed"):
            engine.run(feed(1))

    def test_what_does_not_load_is_refused(self, kind: Kind, path: Path, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.onnx"
        for content in (b"", b"not a graph", path.read_bytes()[:-40]):
            damaged.write_bytes(content)
            with pytest.raises(BundleError, match=r"damaged\.onnx"):
                kind.open(damaged)
        with pytest.raises(BundleError, match=r"missing\.onnx"):
            kind.open(tmp_path / "missing.onnx")
