"""What a server counts and times, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cir_rt.serve.shelf import State

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Telemetry:
    """The figures of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "cir_rt_requests", "Requests answered.", ["route", "method", "status"], registry=own
        )
        self._seconds = Histogram(
            "cir_rt_request_seconds",
            "From a request's header to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self._stages = Histogram(
            "cir_rt_stage_seconds",
            "What a stage of a search took; all searches of a batch take the same.",
            ["stage"],
            buckets=_SECONDS,
            registry=own,
        )
        self._batches = Histogram(
            "cir_rt_batch_size", "Searches answered together.", buckets=_SIZES, registry=own
        )
        self._refusals = Counter(
            "cir_rt_refusals", "Requests refused, by the kind of problem.", ["kind"], registry=own
        )
        self._generation = Gauge(
            "cir_rt_gallery_generation", "Raised by each change of the gallery.", registry=own
        )
        self._pictures = Gauge("cir_rt_gallery_pictures", "In the gallery.", registry=own)

    def watch(self, name: str, says: str, value: Callable[[], float]) -> None:
        """Add a figure that is looked at whenever the figures are asked for."""
        Gauge(name, says, registry=self._registry).set_function(value)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refusal(self, kind: str) -> None:
        """Count a refusal."""
        self._refusals.labels(kind).inc()

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def stages(self, timing_ms: Mapping[str, float]) -> None:
        """Count what the stages of a search took, its total among them."""
        for stage, ms in timing_ms.items():
            self._stages.labels(stage).observe(ms / 1000)

    def text(self, state: State) -> bytes:
        """Return all figures in Prometheus' text format."""
        self._generation.set(state.generation)
        self._pictures.set(state.pictures)
        return generate_latest(self._registry)
