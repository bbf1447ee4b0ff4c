"""The forms of a re-ranker: ways to compute the same scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.engines.protocol import Engine
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.rewrites.forms import FORMS, write_rerank_graphs
from cir_rt.export.rewrites.weights import RerankWeights

PLAIN = "plain"  # as published: what every other form is held against


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """One way to score candidates: its graphs and engines by role."""

    name: str
    files: Mapping[str, Path]
    engines: Mapping[str, Engine]

    @property
    def precision(self) -> str:
        """The name that the manifest gives it."""
        return precision_of(self.name)

    @property
    def takes_codes(self) -> bool:
        """Whether it reads tokens in INT8, as a gallery stores them, instead of FP32."""
        specs = {spec.name: spec for spec in self.engines["rerank"].inputs}
        return bool(specs["tokens"].dtype == "int8")

    @property
    def cascades(self) -> bool:
        """Whether candidates can be dropped after the early layers."""
        return "rerank_late" in self.engines

    def __str__(self) -> str:
        return self.name


def precision_of(form: str) -> str:
    """Return the precision that a form's products are computed in."""
    return "int8" if form.endswith("int8") else "fp32"


def forms_in(precision: str) -> list[str]:
    """Return the forms that a precision by name allows, or all of them for `auto`."""
    return [name for name in FORMS if precision in ("auto", precision_of(name))]


def open_form(
    graphs: Checkpoint, name: str, folder: Path, threads: int | None, *, tokens: str = "int8"
) -> Form:
    """Write a re-ranker in one form into a folder of its own there, and open it on the CPU."""
    weights = RerankWeights.read(graphs)
    place = folder / f"{name}.{tokens}"
    place.mkdir()
    files = write_rerank_graphs(
        weights, place, form=name, early=bool(weights.early_layers), tokens=tokens
    )
    engines = {role: OnnxRuntimeEngine(path, threads=threads) for role, path in files.items()}
    return Form(name=name, files=files, engines=engines)
