"""From a checkpoint or its graphs to a bundle: candidates, races, gates."""

from cir_rt.export.build.options import BuildOptions
from cir_rt.export.build.report import BuildReport
from cir_rt.export.build.run import build_engine

__all__ = ["BuildOptions", "BuildReport", "build_engine"]
