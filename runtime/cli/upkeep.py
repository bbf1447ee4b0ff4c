"""Looking after a gallery: backup, restore, compact, quota, switch, back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir_rt.cli.command import FOLDER, print_facts, subcommands
from cir_rt.errors import UsageError

if TYPE_CHECKING:
    from cir_rt.gallery import Gallery
    from cir_rt.release import Release

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

command = subcommands("gallery", "Look after a gallery, also while it is in use.")


@command("cir-rt gallery backup shoes.gallery backups/monday")
@click.argument("gallery", type=FOLDER)
@click.argument("folder", type=FOLDER)
def backup(gallery: Path, folder: Path, as_json: bool) -> None:
    """Copy GALLERY as it is now to a new FOLDER, itself a gallery; searches and adds go on."""
    from cir_rt.gallery import Gallery

    with Gallery.open(gallery) as opened:
        opened.backup(folder)
    with Gallery.open(folder) as copied:
        print_facts({"backup": str(folder), **_size(copied)}, as_json)


@command("cir-rt gallery restore backups/monday shoes.gallery")
@click.argument("backup_folder", type=FOLDER, metavar="BACKUP")
@click.argument("gallery", type=FOLDER)
def restore(backup_folder: Path, gallery: Path, as_json: bool) -> None:
    """Put a verified copy of BACKUP in the place of GALLERY, at once; searches go on."""
    from cir_rt.gallery import Gallery
    from cir_rt.gallery import backup as backups

    backups.restore(backup_folder, gallery.resolve())
    with Gallery.open(gallery) as restored:
        print_facts({"gallery": str(gallery), **_size(restored)}, as_json)


@command("cir-rt gallery compact shoes.gallery")
@click.argument("gallery", type=FOLDER)
def compact(gallery: Path, as_json: bool) -> None:
    """Give the space of deleted and replaced pictures back to the disk; searches go on."""
    with _writer(gallery) as opened:
        before = opened.size_bytes
        facts = {"gallery": str(gallery), "removed_rows": opened.compact(), **_size(opened)}
        print_facts({**facts, "size_bytes_before": before}, as_json)


@command("cir-rt gallery quota shoes.gallery 20GB")
@click.argument("gallery", type=FOLDER)
@click.argument("size", required=False)
def quota(gallery: Path, size: str | None, as_json: bool) -> None:
    """Say what GALLERY may take on disk, or limit it to SIZE (as 500MB or 20GB; none lifts it)."""
    from cir_rt.gallery import Gallery

    limit = None if size is None else _bytes(size)
    with Gallery.open(gallery) if size is None else _writer(gallery) as opened:
        if size is not None:
            opened.set_quota(limit)
        facts = {"gallery": str(gallery), **_size(opened), "quota_bytes": opened.quota_bytes}
        print_facts(facts, as_json)


@command("cir-rt gallery switch live release-2")
@click.argument("link", type=click.Path(path_type=Path))
@click.argument("folder", type=FOLDER)
def switch(link: Path, folder: Path, as_json: bool) -> None:
    """Let LINK point to FOLDER, a bundle and its gallery, once both are verified."""
    from cir_rt import release

    print_facts(_in_service(link, release.switch(link, folder)), as_json)


@command("cir-rt gallery back live")
@click.argument("link", type=click.Path(path_type=Path))
def back(link: Path, as_json: bool) -> None:
    """Let LINK point to the release before, once that is verified."""
    from cir_rt import release

    print_facts(_in_service(link, release.back(link)), as_json)


def _writer(folder: Path) -> Gallery:
    """Open a gallery that is there, whatever its model, and stay with it if a link turns."""
    from cir_rt.gallery import Gallery

    folder = folder.resolve()
    with Gallery.open(folder) as reader:
        fingerprint, dim = reader.fingerprint, reader.dim
    return Gallery.open_writer(folder, fingerprint=fingerprint, dim=dim)


def _size(gallery: Gallery) -> dict[str, Any]:
    return {
        "pictures": len(gallery),
        "generation": gallery.generation,
        "size_bytes": gallery.size_bytes,
    }


def _in_service(link: Path, release: Release) -> dict[str, Any]:
    return {
        "link": str(link),
        "release": str(release.folder),
        "bundle": str(link / release.bundle.name),
        "gallery": str(link / release.gallery.name),
        "pictures": release.pictures,
    }


def _bytes(size: str) -> int | None:
    if size.lower() == "none":
        return None
    found = _SIZE.fullmatch(size.strip())
    if not found:
        raise UsageError(f"size '{size}'. Expected bytes, as 500MB or 20GB, or none.")
    return int(float(found[1]) * _UNITS[found[2].upper()])
