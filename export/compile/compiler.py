"""The TensorRT compiler: one code path for TensorRT 10.3 to 11 and TensorRT-RTX.

Precision lives in the graph (casts, Q/DQ): networks are strongly typed, so what is no longer in
TensorRT 11, builder flags for precision and calibrators, is not used in 10 either. Flags are named
and never numbered: their numbers shift between versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from cir_rt.config import from_dict, to_dict
from cir_rt.engines.plan import Plan
from cir_rt.engines.tensorrt_packages import PACKAGES, Package, log_of
from cir_rt.errors import CompileError, ConfigError, UsageError
from cir_rt.export.compile.graph import Graph
from cir_rt.export.compile.monitor import Progress, monitor_of
from cir_rt.export.compile.options import CompileOptions, capabilities
from cir_rt.kernels.cuda import Device


def compile_plan(
    path: Path, cache: Path, options: CompileOptions, *, progress: Progress | None = None
) -> Plan:
    """Build the plan of an ONNX graph into the cache folder, or find it there; return its facts.

    Plan and facts lie side by side, named by what they depend on: the graph with its weights, the
    package and its version, the GPUs, the options. `progress` is told (phase, steps done, steps);
    where it raises, the build ends and raises the same. Raises CompileError with TensorRT's own
    words, UsageError for profiles that do not fit the graph, and BackendMissing.
    """
    graph, package = Graph(path), PACKAGES[options.package]
    graph.check_profiles(options.profiles)
    arch = capabilities(options)  # probes the driver before TensorRT is imported
    if package.cross_builds and not options.arch:
        arch = graph.served(arch)
    trt = package.load()
    base = Plan(
        file="",
        sha256="",
        package=package.name,
        version=trt.__version__,
        capabilities=arch,
        hardware=options.hardware,
        version_compatible=options.version_compatible,
        profiles=options.profiles,
        inputs=graph.inputs,
        outputs=graph.outputs,
        graph_sha256=graph.sha256(),
    )
    name = f"{path.stem}-{_key(base, options)[:16]}"
    found = _cached(cache, name)
    if found is None:
        start = time.perf_counter()
        content, layers, told = _Build(package, trt, graph, options, arch, cache).run(progress)
        found = replace(
            base,
            file=f"{name}.plan",
            sha256=hashlib.sha256(content).hexdigest(),
            layers=layers,
            seconds=round(time.perf_counter() - start, 3),
        )
        if told is not None:
            _write(cache / f"{name}.layers.json", told.encode())
        _write(cache / found.file, content)
        _write(cache / f"{name}.json", json.dumps(to_dict(found), indent=1).encode())
    return found


class _Build:
    """One build; the objects of TensorRT live as long as it."""

    def __init__(
        self,
        package: Package,
        trt: Any,
        graph: Graph,
        options: CompileOptions,
        arch: tuple[str, ...],
        cache: Path,
    ) -> None:
        self.package, self.trt, self.graph = package, trt, graph
        self.options, self.arch = options, arch
        self.log = log_of(trt)
        timing = f"timing-{package.name}-{trt.__version__}-{'-'.join(arch)}.cache"
        # RTX times nothing while it builds, and its calls for it are deprecated.
        self.timing = None if package.cross_builds else cache / timing

    def run(self, progress: Progress | None) -> tuple[bytes, dict[str, int], str | None]:
        """Return plan, layer counts by type, and the inspector's report where a GPU is at hand."""
        gpu = None if self.package.cross_builds else Device()
        self.log.errors.clear()
        with gpu.current() if gpu else nullcontext():
            builder = self.trt.Builder(self.log)
            network = self._network(builder)
            config = self._config(builder)
            monitor = monitor_of(self.trt, progress) if progress else None
            if monitor:
                config.progress_monitor = monitor
            plan = builder.build_serialized_network(network, config)
            if monitor and monitor.raised:
                raise monitor.raised
            if plan is None:
                raise CompileError(
                    f"{self.graph.path}: {self._title} cannot build it ({self.log.told()})."
                )
            self._keep_timings(config)
            content = bytes(plan)
            return content, self._layers(network), self._inspect(content) if gpu else None

    @property
    def _title(self) -> str:
        return f"{self.package.title} {self.trt.__version__}"

    def _network(self, builder: Any) -> Any:
        """Parse the graph. Raises CompileError, which names the nodes."""
        trt = self.trt
        typed = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(1 << typed)
        parser = trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(str(self.graph.path)):
            errors = [parser.get_error(k) for k in range(parser.num_errors)]
            told = "; ".join(_told(error) for error in errors) or self.log.told()
            raise CompileError(f"{self.graph.path}: {self._title} cannot read it: {told}.")
        return network

    def _config(self, builder: Any) -> Any:
        trt, options = self.trt, self.options
        config = builder.create_builder_config()
        config.builder_optimization_level = options.level
        if options.workspace_mb is not None:
            size = options.workspace_mb << 20
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
        if not options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware != "none":
            config.hardware_compatibility_level = self._hardware_level()
        detail = "DETAILED" if options.detailed else "LAYER_NAMES_ONLY"
        config.profiling_verbosity = getattr(trt.ProfilingVerbosity, detail)
        if self.package.cross_builds:
            config.num_compute_capabilities = len(self.arch)
            for index, name in enumerate(self.arch):
                named = getattr(trt.ComputeCapability, name.replace("_", "").upper())
                config.set_compute_capability(named, index)
        for profile in options.profiles:
            self._add_profile(builder, config, profile)
        if self.timing is not None:
            kept = self.timing.read_bytes() if self.timing.exists() else b""
            cache = config.create_timing_cache(kept) or config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)
        return config

    def _hardware_level(self) -> Any:
        levels = self.trt.HardwareCompatibilityLevel.__members__
        asked = self.options.hardware
        if asked.upper() not in levels:
            known = ", ".join(sorted(name.lower() for name in levels))
            raise UsageError(f"{self._title} has no hardware '{asked}'. Expected one of: {known}.")
        return levels[asked.upper()]

    def _add_profile(self, builder: Any, config: Any, ranges: Any) -> None:
        profile = builder.create_optimization_profile()
        for spec in self.graph.inputs:
            low, tuned, high = self.graph.shapes(ranges, spec)
            profile.set_shape(spec.name, low, tuned, high)
        if config.add_optimization_profile(profile) < 0:
            raise CompileError(f"{self.graph.path}: {self._title} takes no profile of {ranges}.")

    def _keep_timings(self, config: Any) -> None:
        """Keep what was timed: the next build of a like graph is minutes shorter."""
        if self.timing is not None:
            cache = config.get_timing_cache()
            if cache is not None:
                _write(self.timing, bytes(cache.serialize()))

    def _layers(self, network: Any) -> dict[str, int]:
        """Count the layers by the type of their first output, before TensorRT fuses them."""
        layers = (network.get_layer(k) for k in range(network.num_layers))
        types = (layer.get_output_type(0).name for layer in layers if layer.num_outputs)
        return dict(sorted(Counter(types).items()))

    def _inspect(self, content: bytes) -> str:
        """Return what TensorRT's inspector says of the built plan, as JSON."""
        runtime = self.trt.Runtime(self.log)
        if self.options.version_compatible:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise CompileError(
                f"{self.graph.path}: {self._title} does not load what it built ({self.log.told()})."
            )
        inspector = engine.create_engine_inspector()
        told: str = inspector.get_engine_information(self.trt.LayerInformationFormat.JSON)
        return told


def _told(error: Any) -> str:
    """Say what the parser says, with the node that it stumbled on."""
    name, operator = error.node_name(), error.node_operator()
    where = f"{operator} '{name}' (node {error.node()}): " if operator else ""
    return where + " ".join(error.desc().split()).rstrip(".")


def _key(plan: Plan, options: CompileOptions) -> str:
    """Hash all that the plan depends on."""
    values = [to_dict(plan), to_dict(replace(options, arch=plan.capabilities))]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _cached(cache: Path, name: str) -> Plan | None:
    """Return the facts of a plan that stands whole in the cache."""
    try:
        plan = from_dict(Plan, json.loads((cache / f"{name}.json").read_text(encoding="utf-8")))
        whole = hashlib.sha256((cache / plan.file).read_bytes()).hexdigest() == plan.sha256
    except (OSError, ValueError, ConfigError):
        return None
    return plan if whole else None


def _write(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
