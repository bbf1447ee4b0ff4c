"""Evaluate on a made CIRR folder: subset recall, and files where truth is not published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import THREADS, json_of, refused, run


@pytest.fixture(scope="module")
def cirr(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn pictures in two groups of six; every picture asks for the next of its group."""
    folder = tmp_path_factory.mktemp("cirr")
    for part in ("captions", "image_splits", "images/dev"):
        (folder / part).mkdir(parents=True)
    pictures = sorted((garments / "images").glob("dress-val-*.jpg"))[:12]
    for path in pictures:
        shutil.copyfile(path, folder / "images/dev" / path.name)
    ids = [path.stem for path in pictures]
    entries = []
    for k, reference in enumerate(ids):
        members = ids[k // 6 * 6 :][:6]
        target = members[(k + 1) % 6]
        group = {"id": k // 6, "members": members}
        entries.append({"pairid": k, "reference": reference, "caption": "red", "img_set": group})
        entries[-1]["target_hard"] = target
    for name in ("val", "test1"):
        if name == "test1":
            entries = [{k: v for k, v in e.items() if k != "target_hard"} for e in entries]
        (folder / f"captions/cap.rc2.{name}.json").write_text(json.dumps(entries))
        files = {i: f"./dev/{i}.png" for i in ids}
        (folder / f"image_splits/split.rc2.{name}.json").write_text(json.dumps(files))
    return folder


def test_subset_recall_stands_in_the_json(bundle: Path, cirr: Path) -> None:
    values = json_of(run("evaluate", bundle, "--data", cirr, THREADS, "--json"))
    assert (values["dataset"], values["queries"], values["gallery"]) == ("cirr", 12, 12)
    assert set(values["recall"]) == {"R@1", "R@5", "R@10", "R@50"}
    assert set(values["subset"]) == {"Rs@1", "Rs@2", "Rs@3"}
    assert values["recall"]["R@50"] == 100
    assert values["mean"] == pytest.approx(
        (values["recall"]["R@5"] + values["subset"]["Rs@1"]) / 2, abs=0.006
    )
    assert "Rs@1" in run("evaluate", bundle, "--data", cirr, THREADS).stdout


def test_files_are_written_where_truth_is_not_published(
    bundle: Path, cirr: Path, tmp_path: Path
) -> None:
    asked = ("evaluate", bundle, "--data", cirr, "--split", "test1", THREADS)
    refused(run(*asked), 1, "not published", "--submission")
    values = json_of(run(*asked, "--submission", tmp_path / "out", "--json"))
    assert values["submission"] == [
        str(tmp_path / f"out/{metric}.json") for metric in ("recall", "recall_subset")
    ]
    written = json.loads((tmp_path / "out/recall_subset.json").read_text())
    assert (written["version"], written["metric"], len(written)) == ("rc2", "recall_subset", 14)


def test_no_other_dataset_has_a_server(bundle: Path, garments: Path, tmp_path: Path) -> None:
    asked = ("evaluate", bundle, "--data", garments, "--submission", tmp_path / "out")
    refused(run(*asked), 1, "no server scores its queries")


def test_missing_pictures_are_told_before_a_model_is_opened(cirr: Path, tmp_path: Path) -> None:
    for part in ("captions", "image_splits"):
        shutil.copytree(cirr / part, tmp_path / part)
    asked = ("evaluate", tmp_path / "no-model", "--data", tmp_path)
    refused(run(*asked), 1, "12 of 12 pictures are missing below", ", …")


@pytest.mark.parametrize("asked", [("--rerank", 5), ("--mode", "fast")])
def test_what_has_no_re_ranker_does_not_re_rank(
    bundle: Path, garments: Path, asked: tuple[object, ...]
) -> None:
    refused(run("evaluate", bundle, "--data", garments, *asked), 2, "no re-ranker here")


def test_a_checkpoint_re_ranks_at_full_depth(bundle: Path, garments: Path, tmp_path: Path) -> None:
    asked = ("evaluate", bundle, "--data", garments, "--reranker", tmp_path, "--mode", "fast")
    refused(run(*asked), 2, "mode is fast, but a checkpoint has no cascade")
