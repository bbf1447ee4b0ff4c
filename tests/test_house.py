"""Hold the house together: layering, lean imports, the package list, sizes and names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("kernels", "runtime", "calibration", "export")  # each imports from its left alone
GROUND = "cir_rt.errors"  # open to all
COMMANDS = "runtime/cli/"  # may import any room, inside the commands that need it

TORCH = ("torch", "transformers", "safetensors.torch")
TORCH_PLACES = ("export/models/", "export/train/", "export/onnx_export/")
ONNX_PLACES = ("calibration/", "export/")
HEAVY = (
    *("torch", "transformers", "onnx", "onnxruntime", "matplotlib", "hnswlib", "faiss"),
    *("pycuda", "cuda", "tensorrt", "tensorrt_rtx"),
)

FILE_LINES, FUNCTION_LINES, COLUMNS = 400, 50, 100
VAGUE = {"utils", "util", "helpers", "helper", "managers", "manager", "common"}
LOCAL = re.compile(r"(?<![\w.-])/work" + r"/|\.\./" + "shared")
LOCAL_ALLOWED = {".ci/run"}
MODULE = re.compile(r"cir_rt(\.[a-z_]\w*)+")
BUILT = {"build", "dist", "demo"}  # at the root


class Import(NamedTuple):
    line: int
    name: str  # from a import b: "a.b"
    deferred: bool  # inside a function, or a module named in a table


@cache
def files() -> tuple[str, ...]:
    """List the project's own files, relative to its root: those that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        names = set(filter(None, done.stdout.split("\0")))
    except (OSError, subprocess.CalledProcessError):
        names = {p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*")}
        names = {n for n in names if not _is_built(PurePosixPath(n))}
    return tuple(sorted(n for n in names if (ROOT / n).is_file()))


def _is_built(path: PurePosixPath) -> bool:
    hidden = any(p.startswith(".") and p != ".ci" for p in path.parts[:-1])
    made = path.parts[0] in BUILT or "__pycache__" in path.parts
    return hidden or made or ".egg-info" in str(path)


def python_files(*rooms: str) -> list[str]:
    """List the Python files, of the rooms alone where any are named."""
    names = [n for n in files() if n.endswith(".py")]
    return [n for n in names if not rooms or n.split("/")[0] in rooms]


def source(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def module_of(name: str) -> str:
    """Return a file's import name: runtime/text.py is cir_rt.text."""
    room, *parts = PurePosixPath(name).with_suffix("").parts
    head = ["cir_rt"] if room == "runtime" else ["cir_rt", room]
    return ".".join([*head, *parts]).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """Return the room that a module stands in; None for other people's."""
    top, *rest = module.split(".")
    if top != "cir_rt":
        return None
    return rest[0] if rest and rest[0] in ROOMS else "runtime"


def within(module: str, *packages: str) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def imports(node: ast.AST, deferred: bool = False) -> Iterator[Import]:
    """Yield what a tree imports; a string that names one of our modules counts as an import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(child.lineno, a.name, deferred) for a in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield from (Import(child.lineno, f"{base}.{a.name}", deferred) for a in child.names)
        elif isinstance(child, ast.Constant) and MODULE.fullmatch(str(child.value)):
            yield Import(child.lineno, str(child.value), True)
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from imports(child, deferred or is_function)


def wrong_imports(name: str, text: str) -> list[str]:
    """List the imports of the file `name` that its place in the house forbids."""
    room = name.split("/")[0]
    return [
        f"{name}:{i.line}: {reason}: {i.name}"
        for i in imports(ast.parse(text))
        if (reason := _fault(name, room, i))
    ]


def _fault(name: str, room: str, found: Import) -> str | None:
    if found.name.startswith("."):
        return "relative import"
    if room not in ROOMS:
        return None
    target = room_of(found.name)
    if target and not within(found.name, GROUND) and ROOMS.index(target) > ROOMS.index(room):
        if not name.startswith(COMMANDS):
            return f"{room} imports {target}"
        if not found.deferred:
            return f"{target} is imported outside the command that needs it"
    if within(found.name, *TORCH) and not name.startswith(TORCH_PLACES):
        return "torch outside its places"
    if within(found.name, "onnx") and not name.startswith(ONNX_PLACES):
        return "onnx outside its places"
    return None


def long_functions(name: str, text: str) -> list[str]:
    """List the functions over the limit, docstrings not counted."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
        if lines > FUNCTION_LINES:
            found.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    return found


def pyproject() -> dict[str, Any]:
    # Python 3.10 has no tomllib; pytest brings tomli there.
    toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return toml.loads(source("pyproject.toml"))


def run_python(code: str, *args: str, cwd: Path) -> str:
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(found: list[str]) -> str:
    return "\n".join(["", *found])  # one a line, whatever pytest would cut


def test_every_room_has_files() -> None:
    assert {n.split("/")[0] for n in python_files(*ROOMS)} == set(ROOMS)


def test_each_room_imports_from_its_left_alone() -> None:
    found = [w for n in python_files() for w in wrong_imports(n, source(n))]
    assert not found, listed(found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kernels/scan.py", "import cir_rt"),
        ("kernels/scan.py", "from cir_rt import metrics"),
        ("runtime/text.py", "from cir_rt import export"),
        ("runtime/text.py", "def f():\n    import cir_rt.calibration.gate"),
        ("runtime/text.py", "TABLE = {'a': 'cir_rt.export.build'}"),
        ("runtime/cli/models.py", "from cir_rt.export.build import build"),
        ("calibration/gate.py", "from cir_rt.export.data import dataset"),
        ("runtime/text.py", "import torch"),
        ("runtime/text.py", "from onnx import helper"),
        ("calibration/gate.py", "import torch.nn.functional as F"),
        ("export/evaluate.py", "from safetensors.torch import load_file"),
        ("export/data/dataset.py", "def f():\n    from transformers import AutoModel"),
        ("tests/test_text.py", "from . import fixtures"),
    ],
)
def test_a_wrong_import_is_found(name: str, text: str) -> None:
    assert len(wrong_imports(name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kernels/scan.py", "from cir_rt.errors import CirRtError"),
        ("runtime/text.py", "from cir_rt import errors\nimport cir_rt.kernels.reference"),
        ("runtime/cli/models.py", "def f():\n    from cir_rt.export.build import build"),
        ("runtime/engines/onnxruntime.py", "import onnxruntime"),
        ("calibration/gate.py", "import onnx\nfrom cir_rt.metrics import recall"),
        ("export/onnx_export/graph.py", "import torch\nfrom cir_rt.calibration import gate"),
        ("tests/export/test_towers.py", "import torch"),
    ],
)
def test_a_right_import_is_left_alone(name: str, text: str) -> None:
    assert wrong_imports(name, text) == []


@pytest.mark.parametrize("module", ["cir_rt", "cir_rt.cli"])
def test_the_import_is_lean(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = set(run_python(code, cwd=tmp_path).split())
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))


def test_only_models_training_and_onnx_export_need_torch(tmp_path: Path) -> None:
    """A device builds and serves without torch, also by way of what its modules import."""
    code = """
import importlib, sys
sys.modules.update(torch=None, transformers=None)
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("torch", "transformers"):
            print(name)
"""
    free = [n for n in python_files(*ROOMS) if not n.startswith(TORCH_PLACES)]
    names = [module_of(n) for n in free if not n.endswith("__main__.py")]
    assert run_python(code, *names, cwd=tmp_path).split() == []


def test_the_package_list_is_whole() -> None:
    setup = pyproject()["tool"]["setuptools"]
    folders = {module_of(f"{room}/__init__.py"): room for room in ROOMS}
    assert setup["package-dir"] == folders
    found = [module_of(n) for n in python_files(*ROOMS) if n.endswith("/__init__.py")]
    assert sorted(setup["packages"]) == sorted(found)


def test_every_module_stands_in_a_package() -> None:
    known = set(files())
    parents = {str(PurePosixPath(n).parent) for n in python_files(*ROOMS)}
    found = [p for p in sorted(parents) if f"{p}/__init__.py" not in known]
    assert not found, listed(found)


def test_files_functions_and_lines_are_short() -> None:
    found = []
    for name in python_files():
        text = source(name)
        lines = text.splitlines()
        if len(lines) > FILE_LINES:
            found.append(f"{name}: {len(lines)} lines")
        wide = [k for k, line in enumerate(lines, 1) if len(line) > COLUMNS]
        found += [f"{name}:{k}: over {COLUMNS} columns" for k in wide]
        found += long_functions(name, text)
    assert not found, listed(found)


def test_a_docstring_does_not_lengthen_a_function() -> None:
    body = "    x = 1\n" * (FUNCTION_LINES - 1)
    docstring = '    """Line.\n\n    Line.\n    """\n'
    assert long_functions("a.py", "def f():\n" + docstring + body) == []
    assert len(long_functions("a.py", "def f():\n" + docstring + body + "    x = 2\n")) == 1


def test_names_say_something() -> None:
    found = [n for n in python_files() if VAGUE & set(PurePosixPath(n).with_suffix("").parts)]
    for name in files():
        room, *parts = PurePosixPath(name).with_suffix("").parts
        if room == "runtime" and {"export", "kernels", "calibration"} & set(parts):
            found.append(name)
    assert not found, listed(found)


def test_no_file_knows_a_local_folder() -> None:
    found = []
    for name in files():
        content = (ROOT / name).read_bytes()
        if name in LOCAL_ALLOWED or b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if LOCAL.search(line):
                found.append(f"{name}:{number}: {line.strip()[:COLUMNS]}")
    assert not found, listed(found)
