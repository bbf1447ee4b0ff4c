"""TensorRT's Python API as it was recorded, made callable and strict.

A surface is JSON: classes with their members (signatures of methods, none for properties), and
enums with the names of their members. `module` makes a module of it in which an unknown name,
member, arity, keyword or type raises, as in the bindings themselves. What the calls do is given by
a behaviour for each class; what has none raises NotImplementedError.

    python tests/fakes/trt_surface.py tensorrt_rtx > surfaces/tensorrt-rtx-VERSION.json

records the surface of an installed package.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

SURFACES = Path(__file__).parent / "surfaces"
# What a compiler and an engine may touch: the rest of the API is left out of the records.
CLASSES = (
    "Builder",
    "Dims",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "ParserError",
    "Runtime",
)
_INTEGERS = ("int", "typing.SupportsInt", "SupportsInt", "typing.SupportsIndex")
_BYTES = ("buffer", "typing_extensions.Buffer", "collections.abc.Buffer")


class Parameter(NamedTuple):
    name: str
    type: str
    required: bool


@cache
def parameters(signature: str) -> tuple[Parameter, ...]:
    """Read "f(self: A, b: int = 0) -> C" without its self."""
    inner = signature[signature.index("(") + 1 : signature.rindex(")", 0, _arrow(signature))]
    found, depth, part = [], 0, ""
    for letter in inner + ",":
        depth += (letter in "([<") - (letter in ")]>")
        if letter == "," and depth == 0:
            if part.strip():
                found.append(part.strip())
            part = ""
        else:
            part += letter
    names = []
    for text in found:
        left, _, default = text.partition(" = ")
        name, _, type_ = left.partition(": ")
        names.append(Parameter(name, _plain(type_), not default))
    return tuple(p for p in names if p.name != "self")


def _arrow(signature: str) -> int:
    at = signature.rfind(" -> ")
    return at if at >= 0 else len(signature)


def _plain(type_: str) -> str:
    return re.sub(r"^(\w+::)+(I(?=Parser))?", "", type_)


def bind(trt: ModuleType, signatures: Sequence[str], args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments by name for the first signature that takes them, else TypeError."""
    for signature in signatures:
        wanted = parameters(signature)
        if len(args) > len(wanted):
            continue
        given = dict(zip((p.name for p in wanted), args, strict=False))
        if given.keys() & kwargs.keys():
            continue
        given |= kwargs
        known = {p.name: p for p in wanted}
        if (
            given.keys() <= known.keys()
            and all(p.name in given or not p.required for p in wanted)
            and all(_fits(trt, known[name].type, value) for name, value in given.items())
        ):
            return given
    raise TypeError(f"incompatible arguments {args} {kwargs}. Supported: {'; '.join(signatures)}")


def _fits(trt: ModuleType, type_: str, value: Any) -> bool:
    if type_ in _INTEGERS:
        return isinstance(value, int) or hasattr(value, "__index__")
    if type_ in _BYTES:
        return isinstance(value, (bytes, bytearray, memoryview))
    if type_ in ("str", "bool", "float", "list", "tuple"):
        return isinstance(
            value, {"str": str, "bool": bool, "float": float, "list": list, "tuple": tuple}[type_]
        )
    if type_ == "Dims":  # sequences convert to it
        return isinstance(value, (list, tuple, trt.Dims))
    if type_ == "object":
        return True
    if type_.startswith(("List[", "list[", "collections.abc.Sequence[")):
        return isinstance(value, (list, tuple))
    found: Any = trt
    for part in type_.split("."):
        found = getattr(found, part, ())
    return isinstance(value, found)


def module(name: str, surface: Mapping[str, Any], behaviours: Mapping[str, type]) -> ModuleType:
    """Return a module of the surface that behaves as `behaviours` say, class by class."""
    trt = ModuleType(name)
    trt.__version__ = surface["version"]
    for enum_name, members in surface["enums"].items():
        setattr(trt, enum_name, _enum(enum_name, members, surface["version"]))
    for class_name, members in surface["classes"].items():
        setattr(trt, class_name, _class(trt, class_name, members, behaviours.get(class_name)))
    return trt


def _enum(name: str, members: Sequence[str], version: str) -> type:
    """Number the members by version: who stores a number is found out."""
    major = int(version.split(".")[0])
    start = {"NetworkDefinitionCreationFlag": 0, "ComputeCapability": 0}.get(name, major)
    return enum.Enum(name, {member: start + k for k, member in enumerate(members)}, type=_Number)


class _Number:
    """What pybind's enums have of numbers: a value and int(), no order."""

    def __int__(self) -> int:
        return self.value


def _class(trt: ModuleType, name: str, members: Mapping[str, Any], behaviour: Any) -> type:
    played = dict(vars(behaviour)) if behaviour else {}
    body = {k: v for k, v in played.items() if k.startswith("_") and k not in ("__dict__",)}
    body.pop("__weakref__", None)
    for member, signatures in members.items():
        action = played.get(member)
        if signatures or member == "__init__":
            body[member] = _method(trt, f"{name}.{member}", signatures, action)
        elif member not in played:
            body[member] = _unplayed(f"{name}.{member}")
        else:
            body[member] = action
    if "__init__" not in members:
        body["__init__"] = _no_constructor(name)
    known = frozenset(members)

    def __setattr__(self: Any, attribute: str, value: Any) -> None:
        own = type(self) is made and not attribute.startswith("_")
        if own and (attribute not in known or members[attribute]):
            raise AttributeError(f"'{name}' object has no attribute '{attribute}'")
        object.__setattr__(self, attribute, value)

    body["__setattr__"] = __setattr__
    body["_trt"] = trt
    made = type(name, (), body)
    return made


def _method(trt: ModuleType, name: str, signatures: Sequence[str], action: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = bind(trt, signatures, args, kwargs)
        if action is None:
            raise NotImplementedError(f"the fake does not play {name}")
        return action(self, **given)

    return call


def _no_constructor(name: str) -> Any:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{name}: No constructor defined!")

    return refuse


def _unplayed(name: str) -> property:
    def get(self: Any) -> Any:
        raise NotImplementedError(f"the fake does not play {name}")

    def put(self: Any, value: Any) -> None:
        raise NotImplementedError(f"the fake does not play {name}")

    return property(get, put)


def make(cls: type, **state: Any) -> Any:
    """Return an object of a class that has no constructor, with private state."""
    made = object.__new__(cls)
    for name, value in state.items():
        object.__setattr__(made, f"_{name}", value)
    return made


def recorded(name: str) -> dict[str, Any]:
    """Read a surface by its file's name without suffix."""
    return json.loads((SURFACES / f"{name}.json").read_text(encoding="utf-8"))


def record(module_name: str) -> dict[str, Any]:
    """Return the surface of an installed package, as far as CLASSES go."""
    trt = importlib.import_module(module_name)
    enums = {
        name: sorted(value.__members__)
        for name, value in vars(trt).items()
        if inspect.isclass(value) and hasattr(value, "__members__")
    }
    classes = {name: _members(getattr(trt, name), module_name) for name in CLASSES}
    return {"version": trt.__version__, "enums": dict(sorted(enums.items())), "classes": classes}


def _members(cls: type, module_name: str) -> dict[str, list[str]]:
    found = {}
    for name in sorted(set(dir(cls)) - set(dir(object)) | {"__init__"}):
        if name.startswith("_") and name != "__init__":
            continue
        text = getattr(cls, name).__doc__ if callable(getattr(cls, name)) else ""
        lines = re.findall(rf"^(?:\d+\. )?({re.escape(name)}\(self.*)$", text or "", re.M)
        lines = [re.sub(rf"{module_name}_bindings\.{module_name}\.", "", s) for s in lines]
        if lines or name != "__init__":
            found[name] = lines
    return found


if __name__ == "__main__":
    json.dump(record(sys.argv[1]), sys.stdout, indent=1, sort_keys=True)
    print()
