"""Report of the quickstart: one self-contained HTML file with scores, loss curves, captioned clips and searches."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from dataset_builder.atomic import write_whole
from training.evaluation.toy import TestClip, clip_frames, load_test_clips


NUM_CLIPS = 12
NUM_SEARCHES = 6
NUM_FRAMES = 6
SCORES = (  # title, the two keys in results.json, goal
    ("shape and colour right", "caption", "object_accuracy", 0.90),
    ("action right", "caption", "action_accuracy", 0.80),
    ("text to video, R@1", "retrieval", "text_to_video_r1", 0.70),
    ("video to text, R@1", "retrieval", "video_to_text_r1", None),
    ("CIDEr", "caption", "cider", None),
)
CURVES = (  # title of the chart, then label and key of each line
    ("Language-model loss (nats a token)", (("training", "lm_loss"), ("validation", "eval_lm_loss"))),
    ("Contrastive loss (nats)", (("training", "contrastive_loss"), ("validation", "eval_contrastive_loss"))),
)


def write_report(path: Path, results: dict[str, Any], scores: dict[str, Any], run_folder: Path, videos: Path) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        results: content of results.json.
        scores: result of `evaluate_toy`, with its `clips` and `search`.
        run_folder: folder of the training run, for its metrics.jsonl.
        videos: folder of the test videos.
    """
    metrics = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    clips = load_test_clips(videos)
    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    page = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            results=results,
            scores=[_score_row(results, *row) for row in SCORES],
            charts=[{"title": title, "svg": Markup(draw_chart(metrics, lines))} for title, lines in CURVES],
            clips=_example_clips(scores, clips, results["seed"]),
            searches=_example_searches(scores, clips),
            percent=percent,
        )
    )
    write_whole(path, page)


def percent(share: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * share:.1f} %"


def _score_row(results: dict[str, Any], title: str, kind: str, key: str, goal: float | None) -> dict[str, Any]:
    show = (lambda value: f"{100 * value:.1f}") if key == "cider" else percent
    value, blind, chance = (part[kind][key] for part in (results, results["blind"], results["chance"]))
    return {
        "title": title,
        "value": show(value),
        "blind": show(blind),
        "chance": show(chance),
        "goal": percent(goal) if goal else "",
        "reached": goal is not None and value >= goal,
    }


def draw_chart(metrics: Sequence[dict[str, Any]], lines: Sequence[tuple[str, str]]) -> str:
    """Draw a line chart over steps as SVG; leave out lines that were never measured."""
    width, height, left, bottom = 480, 240, 44, 28
    found = [(label, [(row["step"], row[key]) for row in metrics if row.get(key) is not None]) for label, key in lines]
    found = [(label, points) for label, points in found if points]
    if not found:
        return "<p>not measured</p>"
    last = max(step for _, points in found for step, _ in points)
    top = max(value for _, points in found for _, value in points)
    place = lambda step, value: (
        left + (width - left - 8) * step / max(1, last),
        8 + (height - bottom - 8) * (1 - value / (top or 1)),
    )
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">']
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = place(0, share * top)
        parts.append(f'<line x1="{x:.1f}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{share * top:.2f}</text>')
    parts.append(f'<text x="{width - 8}" y="{height - 8}" text-anchor="end">step {last}</text>')
    for index, (label, points) in enumerate(found):
        colour = ("var(--main)", "var(--second)")[index % 2]
        path = " ".join("{:.1f},{:.1f}".format(*place(step, value)) for step, value in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        parts.append(f'<text x="{left + 8 + 90 * index}" y="{height - 8}" style="fill:{colour}">{label}</text>')
    return "".join([*parts, "</svg>"])


def _example_clips(scores: dict[str, Any], clips: Sequence[TestClip], seed: int) -> list[dict[str, str]]:
    chosen = np.random.default_rng(seed).permutation(len(clips))[:NUM_CLIPS].tolist()
    return [
        {
            "caption": scores["clips"][index]["caption"],
            "predicted": scores["clips"][index]["predicted"],
            "image": _strip(clips[index], NUM_FRAMES),
        }
        for index in chosen
    ]


def _example_searches(scores: dict[str, Any], clips: Sequence[TestClip]) -> list[dict[str, Any]]:
    return [
        {
            "query": clips[search["clip"]].caption,
            "hits": [
                {"caption": clips[hit].caption, "image": _strip(clips[hit], 1), "right": hit == search["clip"]}
                for hit in search["best"]
            ],
        }
        for search in scores["search"][:NUM_SEARCHES]
    ]


def _strip(clip: TestClip, num_frames: int) -> str:
    """Put frames of a clip side by side, as a data URL."""
    frames = clip_frames(clip, num_frames)  # (F, 3, H, W)
    picture = Image.fromarray(np.concatenate(list(frames.transpose(0, 2, 3, 1)), axis=1))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
