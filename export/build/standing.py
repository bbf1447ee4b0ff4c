"""The bundle that already stands where a new one is to go, as something to be faster than."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cir_rt.bundle import is_bundle, open_bundle, sha256
from cir_rt.engines import Engine, open_engine
from cir_rt.errors import CirRtError
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.build.options import BuildOptions


def standing_engines(
    folder: Path, fingerprint: str, chosen: Mapping[str, Candidate], options: BuildOptions
) -> dict[str, Engine]:
    """Return the engines by role of a bundle of the same model, backend and device.

    Empty where none stands there, where it does not open here (it is then no engine that anybody
    uses), or where its graphs are the chosen ones byte for byte.
    """
    if not is_bundle(folder):
        return {}
    try:
        bundle = open_bundle(folder)
        target = bundle.manifest.target
        same = bundle.manifest.fingerprints.vectors == fingerprint
        if not same or (target.backend, target.device) != (options.backend, options.device):
            return {}
        files = {role: bundle.path(bundle.role(role).file) for role in chosen}
        if all(sha256(path) == sha256(chosen[role].path) for role, path in files.items()):
            return {}
        return {
            role: open_engine(bundle, role, device=options.device, threads=options.threads)
            for role in chosen
        }
    except CirRtError:
        return {}
