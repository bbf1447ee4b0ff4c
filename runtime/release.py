"""A model and its gallery, put into service in one step and taken out again the same way.

    live              link to release-2, which is what `Retriever.open("live/model.cir", …)` opens
    live.previous     link to release-1, the way back
    release-2/model.cir, release-2/photos.gallery

A release is a folder with one bundle and one gallery that belong together. A retriever that is
running goes over with `reload`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cir_rt.bundle import is_bundle, open_bundle
from cir_rt.errors import BundleError, GalleryError, UsageError
from cir_rt.gallery import Gallery
from cir_rt.gallery.disk import sync_folder


@dataclass(frozen=True, kw_only=True)
class Release:
    """A folder with a bundle and its gallery; every byte of both has been checked."""

    folder: Path
    bundle: Path
    gallery: Path
    pictures: int

    @classmethod
    def open(cls, folder: Path) -> Release:
        """Look into a folder and verify it.

        Raises BundleError and GalleryError for what is missing, twice there or damaged,
        GalleryMismatch where the gallery is of another model, EngineMismatch.
        """
        folders = [p for p in sorted(folder.glob("*")) if p.is_dir()]
        bundles = [p for p in folders if is_bundle(p)]
        galleries = [p for p in folders if (p / "gallery.sqlite").exists()]
        if len(bundles) != 1:
            raise BundleError(f"{folder}: holds {len(bundles)} bundles. Expected one, {_LAYOUT}")
        if len(galleries) != 1:
            raise GalleryError(
                f"{folder}: holds {len(galleries)} galleries. Expected one, {_LAYOUT}"
            )
        fingerprint = open_bundle(bundles[0]).manifest.fingerprints.vectors
        with Gallery.open(galleries[0], fingerprint=fingerprint) as gallery:
            for fault in gallery.verify():
                raise GalleryError(fault)
            pictures = len(gallery)
        return cls(folder=folder, bundle=bundles[0], gallery=galleries[0], pictures=pictures)


def switch(link: Path, folder: Path) -> Release:
    """Let the link point to a release from now on, and keep what it pointed to as the way back.

    At any instant the link points to the one or the other. Raises what `Release.open` does, and
    UsageError where the link is a folder, or the new bundle or gallery has another name than the
    one in service: retrievers would not find it.
    """
    release = Release.open(folder)
    before = _target(link)
    if before is not None and before.resolve() != folder.resolve():
        _check_names(link, before, release)
        _point(_previous(link), before)
    _point(link, folder)
    return release


def back(link: Path) -> Release:
    """Return to the release that the link pointed to before; once more returns to this one.

    Raises UsageError where there was none, and what `switch` does.
    """
    previous = _target(_previous(link))
    if previous is None:
        raise UsageError(f"{link}: points to its first release; there is none to go back to.")
    return switch(link, previous)


def _target(link: Path) -> Path | None:
    """Return the folder that a link points to, None where there is no link."""
    if link.is_symlink():
        return link.parent / os.readlink(link)
    if link.exists():
        raise UsageError(
            f"{link}: is no link. Expected a name for one; to put this folder into service:  "
            f"mv {link} {link}-1 && cir-rt gallery switch {link} {link}-1"
        )
    return None


def _check_names(link: Path, before: Path, release: Release) -> None:
    for path in (release.bundle, release.gallery):
        if not (before / path.name).exists():
            raise UsageError(
                f"{release.folder}: holds {path.name}, which {link} does not: who opened "
                f"{link}/… would find nothing. It holds: "
                f"{', '.join(sorted(p.name for p in before.glob('*')))}. Rename the new one."
            )


def _point(link: Path, folder: Path) -> None:
    """Make a link, or turn one, by a renaming: nobody finds it missing."""
    target = os.path.relpath(folder.absolute(), link.absolute().parent)
    made = link.with_name(f".{link.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    made.symlink_to(target, target_is_directory=True)
    os.replace(made, link)
    sync_folder(link.absolute().parent)


def _previous(link: Path) -> Path:
    return link.with_name(f"{link.name}.previous")


_LAYOUT = "as in release-1/model.cir beside release-1/photos.gallery."
