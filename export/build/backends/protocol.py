"""What a backend is to a build: it makes a role's candidates and installs the chosen one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cir_rt.bundle import Target
from cir_rt.calibration.recipe import Recipe
from cir_rt.engines.plan import Plan
from cir_rt.export.build.candidates import Candidate


class Backend(Protocol):
    """Made with (BuildOptions, Samples, scratch folder, sizes) for one target.

    A candidate's engine is what measures it here. Where the target is not this machine's device
    (`timed` is False), that may be another engine over the same graph: recall and cosine are then
    its own, and no latency is measured.
    """

    timed: bool  # candidates' engines run on the target itself, so that their latency counts

    def fp32(self, reference: Candidate) -> Candidate:
        """Return the role as the target runs it in FP32: what latency is held against.

        `reference` is the role's FP32 graph on ONNX Runtime's CPU provider; it is the answer where
        the target is just that.
        """

    def candidates(self, reference: Candidate, precision: str) -> list[Candidate]:
        """Return the ways to run the role in a precision by name; none where nothing fits.

        For `auto`, every precision but FP32 that is worth a race; the first is taken where none
        can be timed.
        """

    def quantized(
        self, exact: Candidate, recipe: Recipe, *, probe: int | None = None
    ) -> Candidate | None:
        """Return the role by one recipe; None where it would quantize nothing.

        With `probe`, its vectors are of the first calibration batches that hold so many inputs.
        """

    def opened(self, role: str, path: Path, precision: str) -> Candidate:
        """Return a graph that is already in that precision; nothing is run through it here."""

    def install(self, candidate: Candidate, folder: Path) -> str:
        """Write what the bundle in `folder` needs of the candidate; return the engine's file."""

    def plan(self, candidate: Candidate) -> Plan | None:
        """Return the facts of the candidate's plan, as it lies in the bundle; None without one."""

    def target(self) -> Target:
        """Return what the manifest says that the engines were built for."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that made the engines, for the manifest."""
