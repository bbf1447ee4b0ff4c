"""What the kernels reach on the GPU present: microseconds, bytes per second, and against PyTorch.

    python benchmarks/kernels.py --json

Every kernel is built for this GPU and held against its numpy oracle before it is timed. Times are
medians over CUDA graphs of several launches, measured by events; `cold` with the L2 cache flushed
before each launch, which is timed on its own and taken off. `share_of_copy` is of the bandwidth,
bytes read and written, of a large copy in the same run. Scanned numbers are whole, so that scores
are exact and rows must be equal.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from recording import keep

from cir_rt.errors import CirRtError
from cir_rt.kernels import reference
from cir_rt.kernels.build import build, usages
from cir_rt.kernels.compose import Compose, Composed
from cir_rt.kernels.cuda import Device, Module, Stream
from cir_rt.kernels.rescore import Rescore
from cir_rt.kernels.scan import Found, Rows, Scan, padded
from cir_rt.machine import environment

WIDTH, K = 256, 100
CHECKED_ROWS, STORE_ROWS = 20_000, 200_000
COPY_BYTES, FLUSH_BYTES = 2 << 30, 256 << 20  # the latter more than any L2 holds
LAUNCHES, WARM_UP = 20, 3  # of a small kernel in a graph; of runs that are not counted

Queue = Callable[[Stream], None]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU with the kernels loaded, and its clock."""

    device: Device
    module: Module
    stream: Stream
    repeats: int

    def check(self, queue: Queue) -> None:
        """Run once and wait."""
        queue(self.stream)
        self.stream.synchronize()

    def us(self, queue: Queue, launches: int, *, graph: bool = True) -> float:
        """Return the median microseconds of one launch among several."""
        self.check(queue)
        replay: Queue = queue
        if graph:
            with self.stream.capture() as captured:
                for _ in range(launches):
                    queue(self.stream)
            replay = captured.launch
        start, end = self.device.event(), self.device.event()
        times = []
        for _ in range(self.repeats + WARM_UP):
            start.record(self.stream)
            for _ in range(1 if graph else launches):
                replay(self.stream)
            end.record(self.stream)
            end.synchronize()
            times.append(1000 * end.since_ms(start) / launches)
        return statistics.median(times[WARM_UP:])

    def cold_us(self, queue: Queue, flush: Queue) -> float:
        """Return the microseconds of a launch that finds nothing in L2."""

        def both(stream: Stream) -> None:
            flush(stream)
            queue(stream)

        return self.us(both, LAUNCHES) - self.us(flush, LAUNCHES)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kernel at one shape: what it does, how many bytes that is, and how PyTorch does it."""

    name: str
    queue: Queue
    size_bytes: int
    launches: int
    torch: Callable[[Any], Callable[[], Any]] | None = None  # given the module, a call
    cold: bool = False  # small enough to be warm otherwise


@click.command()
@click.option("--quick", is_flag=True, help="A million rows instead of four; fewer repetitions.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(quick: bool, as_json: bool, record: bool) -> None:
    """Measure the kernels on this machine's GPU."""
    try:
        device = Device()
        with device.current():
            rows, repeats = (1_000_000, 20) if quick else (4_000_000, 100)
            result = measure(device, rows=rows, repeats=repeats)
    except CirRtError as error:
        click.echo(f"kernels: {error}", err=True)
        sys.exit(1)
    if record:
        keep("kernels", result)
    click.echo(json.dumps(result, indent=None if as_json else 2))


def measure(device: Device, *, rows: int, repeats: int) -> dict[str, Any]:
    """Return the record that the command prints."""
    fatbin = build([device.capability])
    module = device.module(fatbin.path.read_bytes())
    gpu = Gpu(device=device, module=module, stream=device.stream(), repeats=repeats)
    flush, copy_gb_s = copy_bandwidth(gpu)
    kernels = {}
    for cases in (composing, scanning, rescoring, stretch):
        for case in cases(gpu, rows):
            kernels[case.name] = timed(gpu, case, flush, copy_gb_s)
            click.echo(f"{case.name}: {kernels[case.name]}", err=True)
    return {
        "device": device.name,
        "capability": device.capability,
        "copy_gb_s": round(copy_gb_s, 1),
        "rows": rows,
        "kernels": kernels,
        "registers": {usage.kernel: usage.registers for usage in usages(fatbin.log)},
        "environment": environment(),
    }


def copy_bandwidth(gpu: Gpu) -> tuple[Queue, float]:
    """Return a copy that flushes L2, and the GB/s of a large one: bytes read plus written."""
    source, target = (gpu.device.allocate(COPY_BYTES) for _ in range(2))

    def copy(size: int) -> Queue:
        return lambda stream: stream.copy(target.address, source.address, size)

    return copy(FLUSH_BYTES), 2 * COPY_BYTES / gpu.us(copy(COPY_BYTES), 4) / 1000


def timed(gpu: Gpu, case: Case, flush: Queue, copy_gb_s: float) -> dict[str, float | None]:
    """Return the figures of one case."""
    warm = gpu.us(case.queue, case.launches)
    rate = case.size_bytes / warm / 1000
    found: dict[str, float | None] = {
        "us": round(warm, 2),
        "us_without_graph": round(gpu.us(case.queue, case.launches, graph=False), 2),
        "us_cold": round(gpu.cold_us(case.queue, flush), 2) if case.cold else None,
        "gb_s": round(rate, 1),
        "share_of_copy": round(rate / copy_gb_s, 3),
        "vs_torch": None,
    }
    torch_us = time_torch(case, gpu.repeats)
    if torch_us is not None:
        found["torch_us"] = round(torch_us, 2)
        found["vs_torch"] = round(torch_us / warm, 2)
    return found


def time_torch(case: Case, repeats: int) -> float | None:
    """Return PyTorch's median microseconds for the same, None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    if case.torch is None or not torch.cuda.is_available():
        return None
    with torch.inference_mode():
        call = case.torch(torch)
        times = []
        for _ in range(repeats + WARM_UP):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(1000 * start.elapsed_time(end))
    return statistics.median(times[WARM_UP:])


def composing(gpu: Gpu, rows: int) -> Iterator[Case]:
    """Yield compose at several batches; the bytes are the gate's weights and the vectors."""
    gate = random_gate(WIDTH)
    for batch in (1, 8, 64, 256):
        v, u = (units(batch, seed).astype(np.float16) for seed in (1, 2))
        kernel = Compose(gpu.device, gpu.module, gate, batch=batch)
        out = Composed.allocate(gpu.device, batch, WIDTH, half=True, codes=True, signs=True)
        arrays = gpu.device.upload(v), gpu.device.upload(u)

        def queue(stream: Stream, kernel: Any = kernel, a: Any = arrays, out: Any = out) -> None:
            kernel(*a, out, stream)

        gpu.check(queue)
        expected, weights = reference.compose(v.astype("f4"), u.astype("f4"), gate)
        near(gpu.device.download(out.query), expected, 1e-5)
        near(gpu.device.download(out.weights), weights, 1e-5)
        yield Case(
            name=f"compose_f16_b{batch}",
            queue=queue,
            size_bytes=4 * gate.hidden_weight.size + batch * WIDTH * (2 + 2 + 4 + 2 + 1),
            launches=LAUNCHES,
            torch=lambda torch, v=v, u=u: torch_compose(torch, gate, v, u),
            cold=True,
        )


def scanning(gpu: Gpu, rows: int) -> Iterator[Case]:
    """Yield scan over all rows, at several batches and precisions."""
    for precision, batches in (("f16", (1, 8, 32, 64)), ("i8", (1, 8, 64)), ("b1", (1, 8))):
        vectors = whole(rows, 1)
        stored = matrix(vectors, precision)
        there = Rows(
            numbers=gpu.device.upload(stored),
            count=gpu.device.upload(np.array([rows], np.int32)),
            scales=gpu.device.upload(np.ones(rows, "f4")) if precision == "i8" else None,
        )
        few = Rows(
            numbers=there.numbers,
            count=gpu.device.upload(np.array([CHECKED_ROWS], np.int32)),
            scales=there.scales,
        )
        for batch in batches:
            queries = whole(batch, 2)
            run = scanner(gpu, precision, queries, rows)
            expected = oracle(precision, queries, vectors[:CHECKED_ROWS])
            equal(gpu, run, few, expected)
            yield Case(
                name=f"scan_{precision}_b{batch}",
                queue=lambda stream, run=run, there=there: run(there, stream),
                size_bytes=stored.nbytes + (4 * rows if precision == "i8" else 0),
                launches=2,
                torch=None
                if precision != "f16"
                else lambda torch, x=stored, q=queries: torch_scan(torch, x, q),
            )


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """A scan with its queries on the GPU."""

    kernel: Scan
    queries: Any
    scales: Any
    out: Found

    def __call__(self, rows: Rows, stream: Stream) -> None:
        """Queue it."""
        self.kernel(self.queries, rows, self.out, stream, query_scales=self.scales)


def scanner(gpu: Gpu, precision: str, queries: np.ndarray, capacity: int) -> Scanner:
    """Return a scan for these queries."""
    batch = len(queries)
    shape = {"precision": precision, "dim": WIDTH, "batch": batch, "k": K, "capacity": capacity}
    ones = gpu.device.upload(np.ones(batch, "f4")) if precision == "i8" else None
    return Scanner(
        kernel=Scan(gpu.device, gpu.module, **shape),
        queries=gpu.device.upload(matrix(queries, precision)),
        scales=ones,
        out=Found.allocate(gpu.device, batch, K),
    )


def oracle(precision: str, queries: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a scan must find."""
    if precision == "b1":
        signs = reference.sign_bits(queries), reference.sign_bits(rows)
        return reference.scan_signs(*signs, WIDTH, K)
    return reference.scan(queries, rows, K)


def equal(gpu: Gpu, run: Scanner, rows: Rows, expected: tuple[np.ndarray, np.ndarray]) -> None:
    """Raise CirRtError where a scan finds other rows or scores."""
    gpu.check(lambda stream: run(rows, stream))
    found = gpu.device.download(run.out.rows), gpu.device.download(run.out.scores)
    for values, wanted in zip(found, expected, strict=True):
        if not np.array_equal(values, wanted):
            raise CirRtError(f"{run.kernel.precision}: other rows or scores than the oracle's.")


def rescoring(gpu: Gpu, rows: int) -> Iterator[Case]:
    """Yield rescore of the candidates of one query and of many."""
    store = whole(STORE_ROWS, 3).astype(np.float32)
    numbers = gpu.device.upload(store)
    for batch, count in ((1, K), (1, 10 * K), (64, K)):
        queries = whole(batch, 2).astype(np.float32)
        picked = np.random.default_rng(4).integers(0, len(store), (batch, count), np.int32)
        shape = {"dim": WIDTH, "batch": batch, "candidates": count, "k": K}
        kernel = Rescore(gpu.device, gpu.module, **shape)
        out = Found.allocate(gpu.device, batch, K)
        inputs = gpu.device.upload(queries), numbers, gpu.device.upload(picked)

        def queue(stream: Stream, kernel: Any = kernel, x: Any = inputs, out: Any = out) -> None:
            kernel(*x, out, stream)

        gpu.check(queue)
        expected = reference.rescore(queries, store, picked, K)[1]
        near(gpu.device.download(out.scores), expected, 0)
        name = f"rescore_f32_b{batch}_c{count}"
        size_bytes = 4 * batch * count * WIDTH
        yield Case(name=name, queue=queue, size_bytes=size_bytes, launches=LAUNCHES, cold=True)


def stretch(gpu: Gpu, rows: int) -> Iterator[Case]:
    """Yield compose, scan and rescore as one captured stretch of a single query."""
    device, gate = gpu.device, random_gate(WIDTH)
    vectors = whole(rows, 1)
    numbers = device.upload(vectors.astype(np.float16))
    there = Rows(numbers=numbers, count=device.upload(np.array([rows], np.int32)))
    pair = [device.upload(units(1, seed).astype(np.float16)) for seed in (1, 2)]
    compose = Compose(device, gpu.module, gate, batch=1)
    query = Composed.allocate(device, 1, WIDTH, half=True)
    shape = {"dim": WIDTH, "batch": 1, "k": K}
    scan = Scan(device, gpu.module, precision="f16", capacity=rows, **shape)
    rescore = Rescore(device, gpu.module, candidates=K, **shape)
    found, final = (Found.allocate(device, 1, K) for _ in range(2))

    def queue(stream: Stream) -> None:
        compose(*pair, query, stream)
        scan(query.half, there, found, stream)
        rescore(query.query, numbers, found.rows, final, stream)

    yield Case(name="compose_scan_rescore_b1", queue=queue, size_bytes=2 * vectors.size, launches=2)


def torch_compose(torch: Any, gate: reference.Gate, v: np.ndarray, u: np.ndarray) -> Any:
    """Return the composition step by step, as a model's module computes it."""
    names = ("hidden_weight", "hidden_bias", "gate_weight", "gate_bias")
    w1, b1, w2, b2 = (torch.from_numpy(getattr(gate, name)).cuda() for name in names)
    left, right = (torch.from_numpy(x).cuda() for x in (v, u))
    functional = torch.nn.functional

    def call() -> Any:
        x, y = left.float(), right.float()
        hidden = functional.linear(torch.cat([x, y], -1), w1, b1).relu()
        weights = (functional.linear(hidden, w2, b2) / gate.temperature).softmax(-1)
        return functional.normalize(weights[:, :1] * x + weights[:, 1:] * y, dim=-1)

    return call


def torch_scan(torch: Any, rows: np.ndarray, queries: np.ndarray) -> Any:
    """Return a matrix product with topk behind it."""
    stored, asked = (torch.from_numpy(x.astype(np.float16)).cuda() for x in (rows, queries))
    asked /= 1 << 10  # so that scores fit FP16
    return lambda: (asked @ stored.T).topk(K, dim=-1)


def random_gate(width: int) -> reference.Gate:
    """Return a gate with weights of usual size."""
    rng = np.random.default_rng(0)
    return reference.Gate(
        hidden_weight=rng.standard_normal((width, 2 * width), np.float32) / 16,
        hidden_bias=rng.standard_normal(width, np.float32),
        gate_weight=rng.standard_normal((2, width), np.float32) / 16,
        gate_bias=rng.standard_normal(2, np.float32),
        temperature=0.7,
    )


def units(rows: int, seed: int) -> np.ndarray:
    """Return vectors of unit length."""
    found = np.random.default_rng(seed).standard_normal((rows, WIDTH))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def whole(rows: int, seed: int) -> np.ndarray:
    """Return vectors of whole numbers, whose products are exact in FP32: int8."""
    return np.random.default_rng(seed).integers(-127, 128, (rows, WIDTH), np.int8)


def matrix(vectors: np.ndarray, precision: str) -> np.ndarray:
    """Return vectors as a scan takes them."""
    written = reference.sign_bits(vectors) if precision == "b1" else vectors
    return padded(written, precision)


def near(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Raise CirRtError where numbers differ by more."""
    error = float(np.abs(found - expected).max())
    if not error <= tolerance:
        raise CirRtError(f"off by {error:.3g} from the oracle, more than {tolerance:g}.")


if __name__ == "__main__":
    main()
