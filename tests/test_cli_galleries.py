"""The commands about galleries: index, search, gallery."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import OWN, TEXT, THREADS, json_of, refused, run
from PIL import Image

from cir_rt.gallery import Gallery
from cir_rt.retriever import Retriever


def test_search_json(bundle: Path, gallery: Path, garments: Path) -> None:
    file = garments / "images" / f"{OWN}.jpg"
    values = json_of(
        run("search", bundle, gallery, "--image", file, "--text", TEXT, "-k3", THREADS, "--json")
    )
    assert set(values) == {"hits", "weights", "reranked", "complete", "timing_ms"}
    assert (values["reranked"], values["complete"]) == (0, True)
    assert [h["rank"] for h in values["hits"]] == [1, 2, 3]
    for hit in values["hits"]:
        assert set(hit) == {"id", "score", "prune_score", "rank", "metadata"}
        assert hit["metadata"] == {"article": hit["id"].split("-")[0]}
    assert values["weights"]["image"] + values["weights"]["text"] == pytest.approx(1)
    total = values["timing_ms"].pop("total")
    assert sum(values["timing_ms"].values()) == pytest.approx(total)
    with Retriever.open(bundle, gallery, threads=1) as retriever:
        hits = retriever.search(image=file, text=TEXT, k=3)
    assert [h["id"] for h in values["hits"]] == [h.id for h in hits]


def test_search_with_one_of_both(bundle: Path, gallery: Path) -> None:
    words = json_of(run("search", bundle, gallery, "--text", TEXT, THREADS, "--json"))
    assert words["weights"] == {"image": 0, "text": 1}
    assert len(words["hits"]) == 10
    own = json_of(run("search", bundle, gallery, "--image", OWN, THREADS, "--json"))
    assert own["weights"] == {"image": 1, "text": 0}
    assert OWN not in [h["id"] for h in own["hits"]]
    half = run("search", bundle, gallery, "--image", OWN, "--text", TEXT, "--weight", 0.5, "--json")
    assert json_of(half)["weights"] == {"image": 0.5, "text": 0.5}


def test_search_for_people(bundle: Path, gallery: Path) -> None:
    result = run("search", bundle, gallery, "--image", OWN, "--text", TEXT, "-k", 2, THREADS)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rank", "id", "score"]
    assert lines[2].split()[0] == "1"
    assert "picture " in lines[5]
    assert "total " in lines[6]


@pytest.mark.parametrize("image", [OWN, None, "file"])
def test_search_draws_a_sheet(
    bundle: Path, gallery: Path, garments: Path, tmp_path: Path, image: str | None
) -> None:
    file = garments / "images" / f"{OWN}.jpg"
    chosen = {OWN: ["--image", OWN], None: [], "file": ["--image", str(file)]}[image]
    sheet = tmp_path / "answer.png"
    result = run(
        "search", bundle, gallery, *chosen, "--text", TEXT, "-k4", "--sheet", sheet, "--json"
    )
    assert len(json_of(result)["hits"]) == 4
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 4 * 148


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "neither picture nor words"),
        (["--text", "red", "-k", "0"], 2, "k is 0"),
        (["--text", "red", "--weight", "2"], 2, "outside 0"),
        (["--text", "red", "--rerank", "5"], 2, "rerank is 5"),
        (["--image", OWN, "--text", "red", "--rerank", "5"], 2, "the bundle has no re-ranker"),
        (["--image", OWN, "--text", "red", "--mode", "fast"], 2, "the bundle has no re-ranker"),
        (["--image", OWN, "--text", "red", "--mode", "slow"], 2, "'fast'"),
        (["--text", "red", "--deadline-ms", "0"], 2, "deadline_ms is 0"),
        (["--text", ""], 1, "TextError: text is empty"),
        (["--text", "red " * 99], 1, "at most 24"),
        (["--image", "nobody"], 1, "UnknownId: 'nobody' is no file"),
    ],
)
def test_search_refuses(
    bundle: Path, gallery: Path, arguments: list[str], code: int, said: str
) -> None:
    refused(run("search", bundle, gallery, *arguments, THREADS), code, said)
    refused(run("search", bundle, gallery, *arguments, THREADS, "--json"), code, said)


def test_search_refuses_other_folders(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    refused(run("search", tmp_path / "x", gallery, "--text", "red"), 1, "BundleError", "build-eng")
    refused(run("search", bundle, tmp_path / "x", "--text", "red"), 1, "GalleryError", "index")
    Gallery.open_writer(tmp_path / "other", fingerprint="0" * 64, dim=32).close()
    refused(run("search", bundle, tmp_path / "other", "--text", "red"), 1, "GalleryMismatch")
    (tmp_path / "file").write_text("no folder")
    refused(run("search", bundle, tmp_path / "file", "--text", "red"), 2, "is a file")


@pytest.mark.parametrize("name", ["missing/answer.png", "answer", "answer.txt"])
def test_a_sheet_that_cannot_be_written_is_refused(
    bundle: Path, gallery: Path, tmp_path: Path, name: str
) -> None:
    result = run("search", bundle, gallery, "--text", TEXT, "--sheet", tmp_path / name, THREADS)
    assert result.exit_code in (0, 1, 2)
    assert "--debug shows where" not in result.stderr


def test_index_json(bundle: Path, garments: Path, tmp_path: Path) -> None:
    photos, gallery = tmp_path / "photos", tmp_path / "shop.gallery"
    photos.mkdir()
    for k, path in enumerate(sorted((garments / "images").glob("*.jpg"))[:5]):
        shutil.copy(path, photos / f"{k}.jpg")
    (photos / "bad.jpg").write_text("not a picture")
    (tmp_path / "m.csv").write_text("id,file,price\nfirst,0.jpg,3\n")
    metadata = ["--metadata", tmp_path / "m.csv"]
    values = json_of(run("index", bundle, photos, "--gallery", gallery, *metadata, "--json"))
    (bad,) = values.pop("unreadable")
    assert bad["id"] == "bad"
    assert "not a picture" in bad["reason"]
    assert values.pop("seconds") > 0
    assert values.pop("index")["kind"] == "exact"
    counts = {"pictures": 5, "added": 5, "updated": 0, "unchanged": 0, "deleted": 0}
    assert values == {"gallery": str(gallery), "unmatched": [], **counts}
    again = json_of(run("index", bundle, photos, "--gallery", gallery, *metadata, "--json"))
    assert (again["added"], again["unchanged"]) == (0, 5)
    gone = ["--delete", "first", "--delete", "2"]
    values = json_of(run("index", bundle, "--gallery", gallery, *gone, "--json"))
    assert (values["deleted"], values["pictures"]) == (2, 3)
    refused(run("index", bundle, "--gallery", gallery, "--delete", "first"), 1, "UnknownId")
    refused(run("index", bundle, tmp_path / "none", "--gallery", gallery), 1, "no such folder")
    with Gallery.open(gallery) as opened:
        assert opened.ids() == ["1", "3", "4"]


def test_index_renews_metadata_alone(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(gallery, tmp_path / "copy.gallery")
    (tmp_path / "m.csv").write_text(f"id,price\n{OWN},3\nnobody,4\n")
    table = ["--metadata", tmp_path / "m.csv"]
    values = json_of(run("index", bundle, "--gallery", copy, *table, "--json"))
    assert (values["updated"], values["unmatched"]) == (1, ["nobody"])
    found = json_of(
        run("search", bundle, copy, "--text", TEXT, "--where", "price = 3", THREADS, "--json")
    )
    assert [(h["id"], h["metadata"]) for h in found["hits"]] == [(OWN, {"price": "3"})]


def test_index_makes_the_index_that_is_asked_for(
    bundle: Path, gallery: Path, tmp_path: Path
) -> None:
    pytest.importorskip("hnswlib")
    copy = shutil.copytree(gallery, tmp_path / "copy.gallery")
    values = json_of(run("index", bundle, "--gallery", copy, "--index", "hnsw", "--json"))
    assert values["index"] == {"kind": "hnsw", "reason": "it was asked for"}
    search = ["--text", TEXT, "-k5", THREADS, "--json"]
    expected = json_of(run("search", bundle, gallery, *search))["hits"]
    assert json_of(run("search", bundle, copy, *search))["hits"] == expected
    refused(run("index", bundle, "--gallery", copy, "--index", "abacus"), 2, "'hnsw'")


def test_search_where(bundle: Path, gallery: Path) -> None:
    search = ["search", bundle, gallery, "--text", TEXT, THREADS]
    values = json_of(run(*search, "--where", "article in ('shirt', 'hat')", "-k30", "--json"))
    assert len(values["hits"]) == 24
    assert {h["metadata"]["article"] for h in values["hits"]} == {"shirt"}
    assert "filter" in values["timing_ms"]
    empty = json_of(run(*search, "--where", "article = 'hat'", "--json"))
    assert empty["hits"] == []
    assert empty["empty_because"] == "no picture meets the condition article = 'hat'"
    refused(run(*search, "--where", "article = hat"), 2, "such as 'hat'", "          ^")


def test_search_says_that_nothing_fits(bundle: Path, gallery: Path) -> None:
    search = ["search", bundle, gallery, "--text", TEXT, THREADS, "--min-score", "0.999"]
    result = run(*search)
    assert result.exit_code == 0
    assert result.stdout.startswith("nothing fits: the best scores 0.")
    assert json_of(run(*search, "--json"))["hits"] == []
    refused(run(*search[:-1], "nan"), 2, "min_score is nan")


def test_gallery_upkeep(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    shop, monday = tmp_path / "shop.gallery", tmp_path / "monday"
    shutil.copytree(gallery, shop)
    assert json_of(run("gallery", "backup", shop, monday, "--json"))["pictures"] == 144
    refused(run("gallery", "backup", shop, monday), 1, "GalleryError", "exists")
    json_of(run("index", bundle, "--gallery", shop, "--delete", OWN, "--json"))
    compacted = json_of(run("gallery", "compact", shop, "--json"))
    assert (compacted["removed_rows"], compacted["pictures"]) == (1, 143)
    assert json_of(run("gallery", "restore", monday, shop, "--json"))["pictures"] == 144
    assert json_of(run("gallery", "quota", shop, "--json"))["quota_bytes"] is None
    assert json_of(run("gallery", "quota", shop, "1.5 GB", "--json"))["quota_bytes"] == 15 * 10**8
    assert json_of(run("gallery", "quota", shop, "none", "--json"))["quota_bytes"] is None
    refused(run("gallery", "quota", shop, "much"), 2, "as 500MB or 20GB")
    refused(run("gallery", "compact", tmp_path / "none"), 1, "no gallery here")


def test_gallery_switch_and_back(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(bundle, tmp_path / name / "model.cir")
        shutil.copytree(gallery, tmp_path / name / "photos.gallery")
    live = tmp_path / "live"
    assert json_of(run("gallery", "switch", live, tmp_path / "one", "--json"))["pictures"] == 144
    refused(run("gallery", "back", live), 2, "none to go back to")
    values = json_of(run("gallery", "switch", live, tmp_path / "two", "--json"))
    assert values["bundle"] == str(live / "model.cir")
    assert json_of(run("gallery", "back", live, "--json"))["link"] == str(live)
    assert live.resolve() == tmp_path / "one"
    json_of(run("search", live / "model.cir", live / "photos.gallery", "--text", "red", "--json"))
