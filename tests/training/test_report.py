import json
import re
from html.parser import HTMLParser

import pytest

from dataset_builder.toy.videos import write_toy_videos
from training.evaluation.toy import load_test_clips
from training.quickstart import describe
from training.quickstart.report import draw_chart, write_report


def part(value, num=7):
    return {
        "caption": {"object_accuracy": value, "action_accuracy": value, "cider": value, "num": num},
        "retrieval": {"text_to_video_r1": value, "video_to_text_r1": value, "num": 3},
    }


RESULTS = {
    **part(0.85),
    "blind": part(0.11),
    "chance": part(0.02),
    "borders": {"f1_visible": 0.95, "f1_all": 0.85, "num": 9},
    "frame_order": {"with_frame_positions": 0.9, "without": None},
    "trainable_share": 0.4,
    "seconds": 61.0,
    "peak_memory_gb": 1.5,
    "stages": {"videos": 1.0, "training": 60.0},
    "revision": "<b>abc</b>",
    "seed": 0,
    "command": "cosmo quickstart",
}


class Page(HTMLParser):
    """Collects what a page would fetch, and its open tags."""

    def __init__(self):
        super().__init__()
        self.links, self.open, self.images = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.images += tag == "img"
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_toy_videos(folder / "videos", num_videos=3, seed=2, workers=1, progress=False)
    clips = load_test_clips(folder / "videos/test")
    said = [{"caption": clip.caption, "predicted": "a <script> of nothing"} for clip in clips]
    said[0]["predicted"] = clips[0].caption
    scores = {"clips": said, "search": [{"clip": 1, "best": [2, 1]}]}
    lines = [{"step": 10, "lm_loss": 2.0}, {"step": 20, "lm_loss": 1.0, "eval_lm_loss": 1.5, "contrastive_loss": None}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_report(folder / "report.html", RESULTS, scores, folder, folder / "videos/test")
    return (folder / "report.html").read_text()


def test_page_is_whole_and_fetches_nothing(page):
    parsed = Page()
    parsed.feed(page)
    assert not parsed.open
    assert parsed.links
    assert all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert parsed.images >= 3 + 2


def test_page_shows_scores_beside_blind_and_chance(page):
    row = re.search(r"<tr><td>action right</td>.*?</tr>", page).group()
    assert [cell.strip() for cell in re.findall(r"<td[^>]*>([\d.]+ %)", row)] == ["85.0 %", "11.0 %", "2.0 %"]
    assert "80.0 % reached" in row
    assert "90.0 % missed" in re.search(r"<tr><td>shape and colour right.*?</tr>", page).group()
    assert "run make frame-order" in page


def test_page_escapes_what_models_and_revisions_say(page):
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>abc" not in page


def test_chart_puts_the_highest_value_on_top_and_time_to_the_right():
    svg = draw_chart([{"step": 0, "a": 4.0}, {"step": 5, "a": 1.0}, {"step": 10, "a": 2.0}], [("a", "a"), ("b", "b")])
    points = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', svg).group(1).split()]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] < points[2][1] < points[1][1]
    assert svg.count("<polyline") == 1
    assert draw_chart([{"step": 1}], [("a", "a")]) == "<p>not measured</p>"


def test_closing_lines_name_everything(tmp_path):
    text = describe(RESULTS, tmp_path)
    for name in ("model", "report.html", "results.json", "videos", "corpus"):
        assert str(tmp_path / name) in text
    assert re.search(r"action +85.0% +11.0% +2.0%", text)
    assert "40.0%" in text
