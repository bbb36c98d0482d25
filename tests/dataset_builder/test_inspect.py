"""`cosmo inspect`: its counts, the problems it finds, and its page, which shows hostile text as text."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

import cosmo_cli
from dataset_builder import Clip, InterleavedVideo, build_corpus, load_recipe
from dataset_builder.corpus.histogram import Bin, bars, histogram
from dataset_builder.corpus.inspect_corpus import describe, inspect_corpus
from dataset_builder.corpus.inspect_page import MOST_CLIPS, default_page, write_page
from dataset_builder.corpus.output_folder import write_checksums
from dataset_builder.corpus.shard_index import write_index
from dataset_builder.corpus.shards import shard_name, write_shard
from dataset_builder.recipe import ShardSettings
from tests.dataset_builder.make_videos import encode, story


CHROMIUM_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


@pytest.fixture(scope="module", params=["embedded", "webdataset", "files"])
def corpus(request, narrated_dir, tower_dir, tmp_path_factory) -> Path:
    """Five narrated videos of three clips, of which those with longer captions are kept, in each storage format."""
    output = tmp_path_factory.mktemp("inspected") / "corpus"
    overrides: dict[str, dict[str, object]] = {
        "embedded": {},
        "webdataset": {"shards.format": "webdataset"},
        "files": {"shards.embed_videos": False},
    }
    recipe = load_recipe("toy", {"segment.tower": str(tower_dir), "segment.penalty": 0.01, **overrides[request.param]})
    build_corpus(narrated_dir, output, recipe, workers=1, progress=False)
    return output


def test_it_counts_what_the_corpus_holds(corpus):
    inspection = inspect_corpus(corpus)
    assert inspection.problems == []
    assert [*inspection.splits] == ["train", "validation", "test"]
    assert (inspection.statistics.num_videos, inspection.statistics.num_kept) == (5, 15)
    assert inspection.values()["words per document"] == [12.0] * 5  # three captions "step 1 of 0"
    text = describe(inspection)
    assert re.search(r"train +1 +\S+ +3 +3 +9 +9 +3.0 +4.0 +0.01", text)
    assert "no clip was dropped" in text
    assert "checksums of 6 files are right" in text
    assert "clips: list of {start_s: float64, end_s: float64, caption: string" in text
    assert re.search(r"seconds per clip\n2 +█{40}  15", text)


def test_tokens_are_counted_on_request(corpus):
    inspection = inspect_corpus(corpus, tokenizer="toy")
    assert all(tokens > 0 for tokens in inspection.values()["tokens per document"])
    assert "tokens per document" in describe(inspection)


def test_the_page_shows_every_clip_and_asks_for_nothing(corpus, tmp_path):
    write_page(inspect_corpus(corpus), corpus, tmp_path / "a.html", num_records=4)
    page = Page.of(tmp_path / "a.html")
    assert len(page.images) == 4 * 3 * 4  # records, clips, frames
    assert all(image.startswith("data:image/webp;base64,") for image in page.images)
    assert page.outside == []
    assert "step 1 of" in page.text
    assert "sentence 2 of" in page.text
    assert str(corpus.parent) not in page.text, "no path of the machine"
    write_page(inspect_corpus(corpus), corpus, tmp_path / "b.html", num_records=4)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_corpus_elsewhere_is_inspected_without_being_on_the_disk(corpus, tmp_path):
    remote = fsspec.filesystem("memory")
    remote.put(str(corpus), "/elsewhere", recursive=True)
    try:
        inspection = inspect_corpus("memory://elsewhere")
        assert inspection.problems == []
        assert inspection.statistics == inspect_corpus(corpus).statistics
        assert any("checksums of 6 files not compared" in note for note in inspection.notes)
        write_page(inspection, "memory://elsewhere", tmp_path / "page.html", num_records=3)
        assert len(Page.of(tmp_path / "page.html").images) == 3 * 3 * 4
    finally:
        remote.rm("/elsewhere", recursive=True)


class Page(HTMLParser):
    """Everything that a browser would load and run on a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.images, self.outside, self.tags = "", list[str](), list[str](), set[str]()

    @classmethod
    def of(cls, path: Path) -> "Page":
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name.startswith("on"):
                self.outside.append(f"{name}={value}")
            if tag == "img" and name == "src":
                self.images.append(value or "")
            elif name in ("src", "href", "action", "data") and not (value or "").startswith("#"):
                self.outside.append(f"{name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = "</style></title><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"


def write_corpus(folder: Path, records: list[InterleavedVideo], **options) -> Path:
    settings = ShardSettings(embed_videos=True, **options)
    write_shard(folder / "data" / shard_name("train", 0, 1, settings), records, settings)
    write_index(folder)
    write_checksums(folder)
    return folder


def clips_of(*texts: str, **changes) -> tuple[Clip, ...]:
    return tuple(
        Clip(start_s=float(index), end_s=float(index + 1), caption=text, **changes) for index, text in enumerate(texts)
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    return encode(tmp_path_factory.mktemp("video") / "v.mp4", story(0)).read_bytes()


def test_hostile_text_is_text(video, tmp_path):
    hostile = clips_of(
        HOSTILE, asr=HOSTILE + " ", frame_captions=(HOSTILE,), regions=(HOSTILE,), keep=False, drop_reason=HOSTILE
    )
    record = InterleavedVideo(
        video_id=HOSTILE, video_path=HOSTILE, video_bytes=video, duration_s=6.0, source=HOSTILE, license=HOSTILE,
        clips=hostile, similarity_matrix=((0.3,),),
    )  # fmt: skip
    folder = write_corpus(tmp_path / "corpus", [record, replace(record, video_bytes=b"no video")])
    write_page(inspect_corpus(folder), folder, tmp_path / "page.html", num_records=5)
    page = Page.of(tmp_path / "page.html")
    assert "script" not in page.tags
    assert page.outside == []
    assert len(page.images) == 4, "pictures of one clip; none of what is not a video"
    assert page.text.count("<script>alert(1)</script>") > 6
    assert "{{ 7 * 7 }}" in page.text
    assert "no pictures: not a video" in page.text
    content = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in content
    assert HOSTILE not in content


def test_the_page_stays_small(video, tmp_path):
    long = clips_of(*["word " * 5000] * 40, frame_captions=("x",) * 500)
    record = InterleavedVideo(video_id="v", video_bytes=video, duration_s=40.0, clips=long)
    folder = write_corpus(tmp_path / "corpus", [record])
    write_page(inspect_corpus(folder), folder, tmp_path / "page.html", num_records=50)
    assert (tmp_path / "page.html").stat().st_size < 300_000
    page = Page.of(tmp_path / "page.html")
    assert len(page.images) == 4 * MOST_CLIPS
    assert f"and {40 - MOST_CLIPS} more clips" in page.text


def test_what_is_wrong_is_found(video, tmp_path):
    good = InterleavedVideo(video_id="good", video_bytes=video, duration_s=6.0, clips=clips_of("a b", "c d"))
    records = [
        good,
        replace(good, clips=clips_of("e f")),  # the same name
        replace(good, video_id="order", clips=good.clips[::-1]),
        replace(good, video_id="beyond", duration_s=1.0),
        replace(good, video_id="reason", clips=(replace(good.clips[0], keep=False),)),
    ]
    folder = write_corpus(tmp_path, records)
    assert inspect_corpus(folder).problems == [
        "train: 1 records share their video_id with another: good",
        "train: 1 records have clips out of order, overlapping or of no length: order",
        "train: 1 records have clips beyond the video: beyond",
        "train: 1 records have clips dropped without a reason, or kept with one: reason",
    ]


def test_files_that_changed_or_vanished_are_found(corpus, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(corpus, folder)
    shard = min((folder / "data").glob("test-*"))
    (folder / "README.md").write_text("other")
    shutil.copy(shard, folder / "data" / shard.name.replace("00000-of-00001", "00001-of-00002"))
    problems = inspect_corpus(folder).problems
    assert any(re.search("has 2 of the 1 shards of 'test'", problem) for problem in problems)
    assert "README.md differs from its checksum" in problems
    assert any("00001-of-00002" in problem and "not in SHA256SUMS" in problem for problem in problems)
    os.truncate(shard, 500)
    min((folder / "data").glob("train-*")).unlink()
    problems = inspect_corpus(folder).problems
    assert any("is in SHA256SUMS and is missing" in problem for problem in problems)
    assert any(f"{shard.name} differs from its checksum" in problem for problem in problems)


def test_videos_that_vanished_are_named(narrated_dir, tower_dir, tmp_path):
    recipe = load_recipe("toy", {"segment.tower": str(tower_dir), "shards.embed_videos": False})
    build_corpus(narrated_dir, tmp_path, recipe, workers=1, progress=False)
    (tmp_path / "videos/train/video 1.mp4").unlink()
    inspection = inspect_corpus(tmp_path)
    assert inspection.problems == ["train: 1 records name a video that is not in the corpus folder: video 1"]
    write_page(inspection, tmp_path, tmp_path / "page.html", num_records=5)
    assert "no pictures: video 1: there is no file" in Page.of(tmp_path / "page.html").text
    shutil.rmtree(tmp_path / "videos")
    named = [problem for problem in inspect_corpus(tmp_path).problems if "is not in the corpus folder" in problem]
    assert len(named) == len(inspection.splits), "a corpus copied without its videos is not whole"


def test_the_command_prints_writes_and_tells_by_its_exit_code(corpus, tmp_path):
    run = lambda *arguments: CliRunner().invoke(cosmo_cli.app, ["inspect", *map(str, arguments)])
    result = run(corpus, "--records", 2)
    assert result.exit_code == 0, result.output
    page = corpus.parent / "corpus-inspect.html"
    assert f"page: {page}" in result.output
    assert page.is_file()
    assert not list(corpus.glob("*.html")), "what is published stays as it was"
    assert run(corpus, "--records", 0, "--html", tmp_path / "none.html").exit_code == 0
    assert not (tmp_path / "none.html").exists()
    shutil.copytree(corpus, tmp_path / "bad")
    (tmp_path / "bad" / "README.md").write_text("other")
    result = run(tmp_path / "bad", "--records", 0)
    assert result.exit_code == 1
    assert "PROBLEM  README.md differs from its checksum" in result.output


def test_pages_of_other_places_land_here():
    assert default_page("owner/corpus") == Path("corpus-inspect.html")
    assert default_page("s3://bucket/a/corpus/") == Path("corpus-inspect.html")


def test_histograms_count_all_and_have_round_borders():
    assert histogram([]) == []
    assert histogram([3, 3, 3]) == [Bin("3", 3)]
    assert histogram([0.0, 0.0]) == [Bin("0", 2)]
    assert [item.label for item in histogram([0.5, 9.9])] == [f"{start}-{start + 1}" for start in range(10)]
    assert histogram([1, 2, 2, 4]) == [Bin("1", 1), Bin("2", 2), Bin("3", 0), Bin("4", 1)]
    wide = histogram([*range(100), 10_000])
    assert sum(item.count for item in wide) == 101
    assert (wide[0].label, wide[-1].label) == ("0-9", "90+")
    assert bars(histogram([1, 2, 2])) == [f"1  {'█' * 20:<40}  1", f"2  {'█' * 40}  2"]


@pytest.fixture
def chromium() -> Iterator:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.mark.browser
def test_the_page_fits_wide_and_narrow_screens_and_loads_nothing(chromium, video, tmp_path):
    text = clips_of("a" * 300, HOSTILE, "short words " * 40, asr="unbroken" * 60, similarity=0.3)
    record = InterleavedVideo(
        video_id="an/unbroken/path/" + "x" * 200, video_bytes=video, duration_s=6.0, clips=text,
        similarity_matrix=tuple((0.1,) * 30 for _ in range(30)),
    )  # fmt: skip
    folder = write_corpus(tmp_path / "corpus", [record])
    write_page(inspect_corpus(folder), folder, tmp_path / "page.html", num_records=1)
    for width in (1280, 390):
        page = chromium.new_page(viewport={"width": width, "height": 900})
        asked, complaints = list[str](), list[str]()
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, complaints=complaints: complaints.append(message.text))
        page.on("dialog", lambda dialog, complaints=complaints: (complaints.append("dialog"), dialog.dismiss()))
        page.goto((tmp_path / "page.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(url.startswith(("file:", "data:")) for url in asked)
        assert complaints == []
        shown = page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert shown


def test_index_and_sums_are_part_of_what_is_checked(corpus):
    sums = (corpus / "SHA256SUMS").read_text()
    assert "shards.json" in sums
    assert json.loads((corpus / "shards.json").read_text())["splits"].keys() == {"train", "validation", "test"}
