"""What every dataset gives: queries, galleries, labels, pictures and protocols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.pictures import SUFFIXES

MIXED = "all"  # the one group of a dataset that ranks one gallery for all queries


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a dataset is scored. Reports state all of it, since numbers differ by these rules."""

    name: str
    gallery: str  # which pictures are ranked, in words
    keep_reference: bool
    captions: str  # how several annotators' captions become one query
    ks: tuple[int, ...]  # recall, "R@k"
    mean_of: tuple[str, ...]  # measures by name, such as "R@10"
    per_category: bool = False  # one gallery a category, then averaged; else one for all queries
    subset_ks: tuple[int, ...] = ()  # recall among the query's own subset, "Rs@k"
    precision_ks: tuple[int, ...] = ()  # mean average precision, "mAP@k"
    verified: bool = True  # whether the reader has been held against the published files

    def __str__(self) -> str:
        ranked = "per category" if self.per_category else "mixed"
        kept = "kept" if self.keep_reference else "removed"
        doubt = "" if self.verified else "; layout not verified against the published files"
        return (
            f"{self.name}: gallery {self.gallery}, {ranked}; reference {kept}; "
            f"captions {self.captions}{doubt}"
        )


@dataclass(frozen=True, kw_only=True)
class Query:
    """One composed query. Any of `targets` is a right answer; `group` names its gallery."""

    reference: str
    captions: tuple[str, ...]
    targets: tuple[str, ...]  # empty where the truth is not published
    group: str
    subset: tuple[str, ...] = ()  # the pictures that subset recall ranks, the reference not one
    key: str = ""  # the dataset's own name of the query, where a server asks for it

    @property
    def text(self) -> str:
        """The annotators' captions as one sentence, "a and b"."""
        return " and ".join(c.strip().strip(".") for c in self.spoken)

    @property
    def spoken(self) -> tuple[str, ...]:
        """The captions that say something: published sets hold empty ones and lone full stops."""
        return tuple(c for c in self.captions if c.strip(" ."))


@dataclass(frozen=True, kw_only=True)
class Split:
    """The queries of one split, with the pictures that each group of them ranks."""

    name: str
    protocol: Protocol
    queries: tuple[Query, ...]
    galleries: Mapping[str, tuple[str, ...]]  # group -> picture ids
    spare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # as galleries, unranked

    @cached_property
    def labelled(self) -> bool:
        """Whether the right answers are published."""
        return any(query.targets for query in self.queries)

    @cached_property
    def pictures(self) -> tuple[str, ...]:
        """Every picture of the split once: galleries first, then what queries name besides."""
        ids = [i for gallery in self.galleries.values() for i in gallery]
        asked = [i for q in self.queries for i in (q.reference, *q.targets)]
        return tuple(dict.fromkeys([*ids, *asked]))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset folder behind one face; `formats` recognises and reads it."""

    name: str
    folder: Path
    splits: Mapping[
        str, Mapping[str, Split]
    ]  # split -> protocol -> Split; first protocol is default
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # id -> descriptive phrases
    products: Mapping[str, str] = field(default_factory=dict)  # id -> the product that it shows
    images: str = "images"  # the pictures' folder, below `folder`
    by_name: bool = False  # ids are file names, in whatever folder below `images`; else paths

    def split(self, name: str, protocol: str | None = None) -> Split:
        """Return a split under one protocol. Raises DataError naming those that exist."""
        if name not in self.splits:
            known = ", ".join(self.splits)
            raise DataError(f"{self.folder} has no split '{name}'. It has: {known}.")
        protocols = self.splits[name]
        key = protocol or next(iter(protocols))
        if key not in protocols:
            raise DataError(f"{self.name} has no protocol '{key}'. It has: {', '.join(protocols)}.")
        return protocols[key]

    def unlabelled(self, split: str) -> tuple[str, ...]:
        """Return the pictures of a split's lists that none of its queries shows."""
        found = self.split(split)
        used = {i for q in found.queries for i in (q.reference, *q.targets)}
        lists = [*found.galleries.values(), *found.spare.values()]
        return tuple(dict.fromkeys(i for ids in lists for i in ids if i not in used))

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Pictures by id: the path below their folder, or their name alone, without suffix."""
        root = self.folder / self.images
        files = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES]
        if self.by_name:
            return {p.stem: p for p in files}
        return {p.relative_to(root).with_suffix("").as_posix(): p for p in files}

    def ids(self) -> list[str]:
        """Return the ids of all pictures in the folder, sorted by path."""
        return list(self._files)

    def paths(self, ids: Iterable[str]) -> list[Path]:
        """Return the pictures' files. Raises DataError with one list of all that are missing.

        The list counts them and names the first ten.
        """
        ids = list(ids)
        missing = sorted({i for i in ids if i not in self._files})
        if missing:
            shown = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
            raise DataError(
                f"{len(missing)} of {len(set(ids))} pictures are missing below "
                f"{self.folder / self.images}: {shown}"
            )
        return [self._files[i] for i in ids]
