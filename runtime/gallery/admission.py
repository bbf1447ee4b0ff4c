"""Which folders may be opened as a gallery, and by which model."""

from __future__ import annotations

import os
from pathlib import Path

from cir_rt.errors import GalleryError, GalleryMismatch
from cir_rt.gallery.catalog import FORMAT, Catalog
from cir_rt.gallery.disk import lock_folder, storage_errors, sync_folder
from cir_rt.gallery.facts import Facts, TokenFormat
from cir_rt.gallery.segment import vector_segment

_FOLDERS = {"lock", "vectors", "tokens", "indexes"}
_INDEX_ANEW = "Index the pictures again:  cir-rt index BUNDLE IMAGE_DIR --gallery NEW"
ADD_TOKENS = (
    "Index the folders again with a bundle that re-ranks, which adds them:  cir-rt index BUNDLE "
    "IMAGE_DIR --gallery GALLERY  Or search without:  --rerank 0"
)


def missing(folder: Path) -> GalleryError:
    """Return the error of a folder that is no gallery."""
    return GalleryError(
        f"{folder}: no gallery here. Make one:  cir-rt index BUNDLE IMAGE_DIR --gallery {folder}"
    )


def open_catalog(folder: Path) -> Catalog:
    """Open a gallery's catalogue for reading; GalleryError where there is none of this format."""
    if not (folder / "gallery.sqlite").is_file():
        raise missing(folder)
    catalog = Catalog(folder / "gallery.sqlite", writable=False)
    try:
        if catalog.format == 0:
            raise missing(folder)
        check_format(folder, catalog.format)
    except GalleryError:
        catalog.close()
        raise
    return catalog


def open_writable(folder: Path, facts: Facts, wait_s: float) -> tuple[Catalog, int]:
    """Open a gallery's catalogue for writing and lock its folder; make both where there are none.

    facts is what a new gallery is to be. Raises GalleryError where another writer holds it after
    wait_s, or the folder holds something else.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        refuse_other_content(folder)
        lock = lock_folder(folder, wait_s)
    catalog = None
    try:
        catalog = Catalog(folder / "gallery.sqlite", writable=True)
        if catalog.format == 0:
            with storage_errors(folder):
                vector_segment(folder, facts).create()
                sync_folder(folder.absolute().parent)
            catalog.create(facts)
        check_format(folder, catalog.format)
    except BaseException:
        if catalog is not None:
            catalog.close()
        os.close(lock)
        raise
    return catalog, lock


def check_format(folder: Path, number: int) -> None:
    """Raise GalleryError for a gallery of another format version."""
    if number != FORMAT:
        raise GalleryError(
            f"{folder}: gallery of format {number}; this cir-rt reads format {FORMAT}. "
            "Use the cir-rt that wrote it, or index the pictures again:  "
            "cir-rt index BUNDLE IMAGE_DIR --gallery NEW"
        )


def check_model(
    folder: Path,
    facts: Facts,
    fingerprint: str | None,
    dim: int | None = None,
    precision: str | None = None,
) -> None:
    """Raise GalleryMismatch where the vectors are not what is said; None says nothing."""
    if fingerprint is not None and fingerprint != facts.fingerprint:
        raise GalleryMismatch(
            f"{folder}: made by model {facts.fingerprint[:12]}; the bundle at hand is "
            f"{fingerprint[:12]}. {_INDEX_ANEW}"
        )
    if dim is not None and dim != facts.dim:
        raise GalleryMismatch(
            f"{folder}: holds vectors of {facts.dim} numbers; the bundle at hand gives {dim}. "
            f"{_INDEX_ANEW}"
        )
    if precision is not None and precision != facts.precision:
        raise GalleryMismatch(
            f"{folder}: holds vectors in {facts.precision}, not in {precision}. {_INDEX_ANEW}"
        )


def check_token_model(folder: Path, facts: Facts, fingerprint: str | None) -> None:
    """Raise GalleryMismatch where candidate tokens are of another model, or none are kept."""
    if fingerprint is None or fingerprint == facts.token_fingerprint:
        return
    if facts.token_fingerprint is None:
        raise without_tokens(folder)
    raise GalleryMismatch(
        f"{folder}: candidate tokens are of model {facts.token_fingerprint[:12]}; the re-ranker "
        f"at hand is {fingerprint[:12]}. {_INDEX_ANEW}"
    )


def without_tokens(folder: Path) -> GalleryMismatch:
    """Return the error of a gallery that was made without a re-ranker."""
    return GalleryMismatch(f"{folder}: keeps no candidate tokens. {ADD_TOKENS}")


def check_tokens(folder: Path, facts: Facts, tokens: TokenFormat) -> None:
    """Raise GalleryMismatch where the tokens kept are of another model, number or precision."""
    check_token_model(folder, facts, tokens.fingerprint)
    if facts.tokens != tokens:
        raise GalleryMismatch(f"{folder}: keeps {facts.tokens}, not {tokens}. {_INDEX_ANEW}")


def refuse_other_content(folder: Path) -> None:
    """Refuse a folder that is neither a gallery nor one whose making was interrupted."""
    if (folder / "gallery.sqlite").exists():
        return
    other = {path.name for path in folder.iterdir()} - _FOLDERS
    filled = [path for path in folder.glob("*/*") if path.is_file() and path.stat().st_size]
    if other or filled:
        name = min(other) if other else filled[0].relative_to(folder).as_posix()
        raise GalleryError(
            f"{folder}: holds '{name}' and no gallery.sqlite. Expected a gallery, or a new or "
            "empty folder."
        )
