"""The forms of a re-ranker: ways to compute the same scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from cir_rt.calibration.half import to_half
from cir_rt.engines.protocol import Engine
from cir_rt.errors import UsageError
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.rewrites.forms import FORMS, write_rerank_graphs
from cir_rt.export.rewrites.weights import RerankWeights

PLAIN = "plain"  # as published: what every other form is held against

# Where nothing can be timed the first one stands: absorbed, a caption of fewer than width / heads
# tokens takes the fewest products.
ON_GPU = ("absorbed-fp16", "plain-fp16", "plain", "absorbed")

_HEAD = ("Gemm", "Relu")  # the operators of the head, which no other part has

Open = Callable[[str, Path, str], Candidate]  # a role's graph, in a precision


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """One way to score candidates: its engines by role."""

    name: str
    parts: Mapping[str, Candidate]

    @property
    def engines(self) -> dict[str, Engine]:
        """What runs its graphs, by role."""
        return {role: part.engine for role, part in self.parts.items()}

    @property
    def precision(self) -> str:
        """The name that the manifest gives it."""
        return precision_of(self.name)

    @property
    def takes_codes(self) -> bool:
        """Whether it reads tokens in INT8, as a gallery stores them, instead of FP32."""
        specs = {spec.name: spec for spec in self.parts["rerank"].engine.inputs}
        return bool(specs["tokens"].dtype == "int8")

    @property
    def cascades(self) -> bool:
        """Whether candidates can be dropped after the early layers."""
        return "rerank_late" in self.parts

    def __str__(self) -> str:
        return self.name


def precision_of(form: str) -> str:
    """Return the precision that a form's products are computed in."""
    last = form.rpartition("-")[2]
    return last if last in ("int8", "fp16") else "fp32"


def forms_in(options: BuildOptions) -> list[str]:
    """Return the forms that the options' device has in their precision, or all for `auto`.

    Raises UsageError where there is none.
    """
    known = FORMS if options.kind == "cpu" else ON_GPU
    names = [name for name in known if options.precision in ("auto", precision_of(name))]
    if not names:
        others = " or ".join(dict.fromkeys(f"--precision {precision_of(name)}" for name in known))
        raise UsageError(
            f"backend '{options.backend}' has no re-ranker in {options.precision.upper()} on "
            f"{options.device}. Expected  {others}  or leave the re-ranker out:  --no-rerank"
        )
    return names


def open_form(
    graphs: Checkpoint, name: str, folder: Path, opened: Open, *, tokens: str = "int8"
) -> Form:
    """Write a re-ranker in one form into a folder of its own there, and open it."""
    weights, precision = RerankWeights.read(graphs), precision_of(name)
    place = folder / f"{name}.{tokens}"
    place.mkdir()
    files = write_rerank_graphs(
        weights,
        place,
        form=name.removesuffix("-fp16"),
        early=bool(weights.early_layers),
        tokens=tokens,
    )
    if precision == "fp16":
        for path in files.values():
            _halve(path)
    return Form(
        name=name,
        parts={role: opened(role, path, precision) for role, path in files.items()},
    )


def _halve(path: Path) -> None:
    """Rewrite a graph in FP16, its head in FP32."""
    model = onnx.load(path)
    head = [node.name for node in model.graph.node if node.op_type in _HEAD]
    onnx.save(to_half(model, head), path)
