"""The bundle on disk: what is verified, what is refused, what survives a failed write."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cir_rt import bundle as module
from cir_rt.bundle import (
    RerankSettings,
    faults,
    is_bundle,
    open_bundle,
    read_manifest,
    sha256,
    staged,
    write_manifest,
)
from cir_rt.config import to_dict
from cir_rt.errors import BundleError, EngineMismatch, StorageFull

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle, tmp_path / "copy.cir")


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def change(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_open_holds_every_file_against_its_checksum(bundle: Path) -> None:
    opened = open_bundle(str(bundle))
    names = set(contents(bundle)) - {"manifest.json"}
    assert set(opened.manifest.files) == names
    for name, fact in opened.manifest.files.items():
        assert (sha256(opened.path(name)), opened.path(name).stat().st_size) == (
            fact.sha256,
            fact.size_bytes,
        )
    assert list(faults(bundle, opened.manifest)) == []
    assert opened.manifest.precisions == {"image": "fp32", "text": "fp32"}
    with pytest.raises(BundleError, match=r"no 'rerank'. It has: image, text, compose"):
        opened.role("rerank")


def test_a_flipped_byte_is_found_in_every_file(copy: Path) -> None:
    for name in read_manifest(copy).files:
        path = copy / name
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(BundleError, match=f"{name}.*altered.*build-engine"):
                open_bundle(copy)
        path.write_bytes(whole[:-1])
        with pytest.raises(BundleError, match=f"{name}.*{len(whole) - 1} bytes"):
            open_bundle(copy)
        path.unlink()
        with pytest.raises(BundleError, match=f"{name}: missing"):
            open_bundle(copy)
        path.write_bytes(whole)
    open_bundle(copy)


def test_an_altered_manifest_is_found(copy: Path) -> None:
    roles = json.loads((copy / "manifest.json").read_text())["roles"]
    roles["image"]["preprocess"]["mean"] = [0.4, 0.5, 0.5]
    change(copy, roles=roles)
    with pytest.raises(BundleError, match="altered"):
        open_bundle(copy)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(copy: Path, version: Any) -> None:
    change(copy, format=version)
    with pytest.raises(BundleError, match=f"format {version}; this cir-rt reads format 1"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not readable"),
        (b"[]", "not readable"),
        (b"{}", "not readable"),
        (b"\xff\xfe", "not readable"),
        (b'{"format": 1, "colour": 3}', "has no setting 'colour'"),
        (b'{"format": 1}', "missing"),
    ],
)
def test_a_damaged_manifest_is_refused(copy: Path, content: bytes, said: str) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=said):
        open_bundle(copy)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert not is_bundle(folder)
        with pytest.raises(BundleError, match=r"manifest\.json is missing.*build-engine"):
            open_bundle(folder)


@pytest.mark.parametrize(
    ("built_for", "here", "runs"),
    [
        ("avx512_vnni", "avx512_vnni", True),
        ("avx512_vnni", "avx_vnni", True),
        ("avx512_vnni", "avx2", False),
        ("asimddp", "asimd", False),
        ("avx2", "avx512_vnni", True),
        ("avx2", "avx2", True),
        ("asimddp", "asimddp", True),
        ("asimd", "asimddp", True),
        ("asimddp", "avx512_vnni", False),
        ("avx2", "asimddp", False),
        ("avx2", "aarch64", False),
    ],
)
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_int8_goes_where_its_form_is_right(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    built_for: str,
    here: str,
    runs: bool,
    precision: str,
) -> None:
    manifest = read_manifest(copy)
    target = replace(manifest.target, instruction_set=built_for)
    roles = {**manifest.roles, "text": replace(manifest.roles["text"], precision=precision)}
    write_manifest(replace(manifest, target=target, roles=roles), copy)
    monkeypatch.setattr(module, "instruction_set", lambda: here)
    if runs or precision == "fp32":
        open_bundle(copy)
        return
    with pytest.raises(EngineMismatch, match=f"built for {built_for}; this machine has {here}"):
        open_bundle(copy)


def test_int8_on_a_gpu_does_not_ask_for_the_cpus_instructions(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(copy)
    target = replace(manifest.target, device="cuda", instruction_set="avx512_vnni")
    roles = {**manifest.roles, "text": replace(manifest.roles["text"], precision="int8")}
    write_manifest(replace(manifest, target=target, roles=roles), copy)
    monkeypatch.setattr(module, "instruction_set", lambda: "asimddp")
    open_bundle(copy)


def test_a_manifest_of_fewer_fields_is_not_an_altered_one(copy: Path) -> None:
    values = json.loads((copy / "manifest.json").read_text())
    for role in values["roles"].values():
        del role["plan"]
    del values["rerank"]
    rest = {key: value for key, value in values.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps({**rest, "sha256": digest}))
    assert open_bundle(copy).role("image").plan is None
    assert open_bundle(copy).manifest.rerank is None
    (copy / "manifest.json").write_text(json.dumps({**rest, "dim": 33, "sha256": digest}))
    with pytest.raises(BundleError, match="altered"):
        open_bundle(copy)


def test_the_manifest_survives_a_round_trip(copy: Path) -> None:
    manifest = read_manifest(copy)
    before = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").unlink()
    assert write_manifest(replace(manifest, files={}), copy) == manifest
    assert read_manifest(copy) == manifest
    assert (copy / "manifest.json").read_bytes() == before
    assert json.loads(before) == json.loads(json.dumps(to_dict(manifest)))


def test_a_re_rankers_settings_survive_a_round_trip(copy: Path) -> None:
    settings = RerankSettings(places=17, width=24, buckets=(4, 9), margin=0.125)
    write_manifest(replace(read_manifest(copy), rerank=settings), copy)
    assert open_bundle(copy).manifest.rerank == settings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"candidates": 0}, "at least 1"),
        ({"width": 0}, "at least 1"),
        ({"buckets": []}, "buckets must rise"),
        ({"buckets": [50, 8]}, "buckets must rise"),
        ({"bucket": [50]}, "Did you mean 'buckets'"),
    ],
)
def test_wrong_settings_of_a_re_ranker_are_refused(
    copy: Path, wrong: dict[str, Any], said: str
) -> None:
    change(copy, rerank={"places": 17, "width": 24, **wrong})
    with pytest.raises(BundleError, match=said):
        open_bundle(copy)


def test_staged_shows_nothing_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "new.cir"
    with staged(folder) as temporary:
        (temporary / "manifest.json").write_text("{}")
        assert not folder.exists()
        assert folder.parent in temporary.parents
    assert contents(folder) == {"manifest.json": b"{}"}
    assert list(folder.parent.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_staged_replaces_a_bundle(copy: Path) -> None:
    with staged(copy) as temporary:
        (temporary / "manifest.json").write_text("{}")
        assert len(contents(copy)) > 1
    assert contents(copy) == {"manifest.json": b"{}"}
    assert list(copy.parent.iterdir()) == [copy]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ValueError("a gate")])
def test_a_failed_write_leaves_the_old_bundle(copy: Path, error: BaseException) -> None:
    before = contents(copy)
    expected = StorageFull if error is FULL else type(error)

    def write() -> None:
        with staged(copy) as temporary:
            (temporary / "manifest.json").write_text("{}")
            raise error

    with pytest.raises(expected):
        write()
    assert contents(copy) == before
    assert list(copy.parent.iterdir()) == [copy]


def test_staged_refuses_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(BundleError, match="not a bundle"), staged(tmp_path):
        pass
    assert contents(tmp_path) == {"photo.jpg": b"precious"}


def failing(call: int) -> Callable[..., None]:
    """Return a rename that finds the disk full at its n-th call."""
    rename, calls = os.rename, iter(range(1, 100))

    def renamed(*names: Any) -> None:
        if next(calls) == call:
            raise FULL
        rename(*names)

    return renamed


@pytest.mark.parametrize(
    "call",
    [
        1,
        2,
    ],
)
def test_a_failed_rename_leaves_the_old_bundle(
    copy: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    before = contents(copy)

    def write() -> None:
        with staged(copy) as temporary:
            (temporary / "manifest.json").write_text("{}")
            monkeypatch.setattr(os, "rename", failing(call))

    with pytest.raises(StorageFull):
        write()
    assert contents(copy) == before
    assert list(copy.parent.iterdir()) == [copy]


def test_what_a_crash_left_behind_does_not_stop_the_next_build(copy: Path) -> None:
    left = copy.parent / f".{copy.name}.old"
    left.mkdir()
    (left / "manifest.json").write_text("{}")
    with staged(copy) as temporary:
        (temporary / "manifest.json").write_text('{"new": 1}')
    assert contents(copy) == {"manifest.json": b'{"new": 1}'}


def test_a_disk_that_is_full_from_the_start(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise FULL

    monkeypatch.setattr(module.tempfile, "mkdtemp", full)
    with pytest.raises(StorageFull), staged(copy):
        pass


def test_a_folder_with_some_other_manifest_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an app", "icons": []}')
    (tmp_path / "index.html").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="not a bundle"), staged(tmp_path):
        pass
    assert contents(tmp_path) == before
