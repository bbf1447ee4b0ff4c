"""Real pictures and captions in two parts: ranges are taken from one, gates ask the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cir_rt.calibration.samples import Samples, check_real
from cir_rt.errors import DataError
from cir_rt.export.checkpoint import CALIBRATION, Checkpoint
from cir_rt.export.data.dataset import Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import is_dataset, open_dataset
from cir_rt.export.samples import PICTURES, spread

HELD_BACK = 4  # every fourth reference's queries
ENOUGH = 500  # inputs of a role, below which the build says so
CAPTIONS = "captions.txt"  # of a plain folder of pictures, one in a line


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """What a build is calibrated with, and what its gates ask.

    No picture that a gate's query shows, and no caption that it says, is among the samples; the
    pictures that are ranked may be.
    """

    samples: Samples
    dataset: Dataset
    split: Split  # the gate's queries
    pictures: tuple[str, ...]  # those of the samples
    texts: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        """Whether the queries have right answers, so that recall can be counted."""
        return self.split.labelled

    def samples_of(self, checkpoint: Checkpoint) -> Samples:
        """Return the samples as another model takes them."""
        return _samples(checkpoint, self.dataset, self.pictures, self.texts)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "pictures": len(self.samples.pixels),
            "captions": len(self.samples.ids),
            "sha256": self.samples.digest(),
            "labelled": self.labelled,
            "gate_queries": len(self.split.queries),
            "gate_gallery": sum(map(len, self.split.galleries.values())),
        }

    def notes(self) -> list[str]:
        """Say what is thin about the inputs."""
        counts = {"pictures": len(self.samples.pixels), "captions": len(self.samples.ids)}
        return [
            f"{count} {name} to calibrate with; {ENOUGH} or more make steadier ranges"
            for name, count in counts.items()
            if count < ENOUGH
        ]


def calibration_set(graphs: Checkpoint, folder: Path | None) -> CalibrationSet:
    """Read a dataset folder or a plain folder of pictures; by default the checkpoint's own.

    A dataset with a training and a val split gives ranges from one and queries from the other; of
    any other the queries of every fourth reference are held back. A plain folder's captions are
    those of its captions.txt, or else of the checkpoint. Raises DataError where there is nothing
    to calibrate with, or nothing left to ask.
    """
    folder = folder or graphs.folder / CALIBRATION
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no calibration inputs. Name a dataset or a folder of pictures:  "
            "--calibration DIR  (500 or more; random data is not accepted)."
        )
    dataset = open_dataset(folder) if is_dataset(folder) else _plain(folder, graphs)
    if {"train", "val"} <= set(dataset.splits):
        train, asked = dataset.split("train"), dataset.split("val")
        pictures: Sequence[str] = train.pictures
        texts = [query.text for query in train.queries]
    else:
        pictures, texts, asked = _hold_back(dataset)
    tokenizer = graphs.tokenizer()

    def tokens(text: str) -> bytes:  # two captions may be one where they are cut
        return tokenizer([text], truncate=True).tobytes()

    said = {tokens(query.text) for query in asked.queries if query.captions}
    texts = [text for text in dict.fromkeys(texts) if text and tokens(text) not in said]
    if not asked.queries or not pictures:
        raise DataError(f"{folder}: too few queries to hold any back. Give more real ones.")
    dataset.paths(asked.pictures)  # those that are missing are told of before anything is built
    shown, told = tuple(spread(pictures, PICTURES)), tuple(spread(texts, PICTURES))
    samples = _samples(graphs, dataset, shown, told)
    check_real(samples, str(folder))
    return CalibrationSet(samples=samples, dataset=dataset, split=asked, pictures=shown, texts=told)


def _samples(
    checkpoint: Checkpoint, dataset: Dataset, pictures: Sequence[str], texts: Sequence[str]
) -> Samples:
    tokenizer = checkpoint.tokenizer()
    return Samples(
        pixels=checkpoint.config.preprocess(dataset.paths(pictures)),
        ids=tokenizer(texts, truncate=True),
        pad_id=tokenizer.pad_id,
    )


def _hold_back(dataset: Dataset) -> tuple[list[str], list[str], Split]:
    """Return pictures and captions for the ranges, and the split of the queries held back."""
    split = dataset.split("val" if "val" in dataset.splits else next(iter(dataset.splits)))
    references = dict.fromkeys(query.reference for query in split.queries)
    held = set(list(references)[::HELD_BACK])
    pictures = [picture for picture in split.pictures if picture not in held]
    texts = [query.text for query in split.queries if query.reference not in held]
    asked = tuple(query for query in split.queries if query.reference in held)
    return pictures, texts, replace(split, queries=asked)


def _plain(folder: Path, graphs: Checkpoint) -> Dataset:
    """Read a folder of pictures as a dataset of one split, whose queries have no right answer."""
    dataset = Dataset(name="pictures", folder=folder, splits={}, images=".")
    ids = dataset.ids()
    if not ids:
        raise DataError(f"{folder}: neither a dataset nor a folder of pictures.")
    captions = _captions(folder, graphs)
    queries = tuple(
        Query(
            reference=picture,
            captions=(captions[k % len(captions)],) if captions else (),
            targets=(),
            group="all",
        )
        for k, picture in enumerate(ids)
    )
    protocol = Protocol(
        name="agreement",
        gallery="the other pictures",
        keep_reference=False,
        captions="in turns",
        ks=(10,),
        mean_of=("R@10",),
    )
    split = Split(name="all", protocol=protocol, queries=queries, galleries={"all": tuple(ids)})
    return replace(dataset, splits={"all": {"agreement": split}})


def _captions(folder: Path, graphs: Checkpoint) -> list[str]:
    """Return the folder's own captions or, without any, those that the checkpoint carries."""
    if (folder / CAPTIONS).exists():
        lines = (folder / CAPTIONS).read_text(encoding="utf-8").splitlines()
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not (graphs.folder / CALIBRATION).is_dir():
        return []
    own = open_dataset(graphs.folder / CALIBRATION)
    split = own.split(next(iter(own.splits)))
    return list(dict.fromkeys(query.text for query in split.queries))
