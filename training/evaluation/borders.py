"""How well the corpus' clip borders agree with the toy world's true ones."""

import json
from pathlib import Path

from dataset_builder.border_score import count_matches
from dataset_builder.corpus import read_corpus


TOLERANCE_S = 0.5


def border_scores(corpus: Path, videos: Path, split: str) -> dict[str, float]:
    """Micro-averaged F1 of a split's borders at `TOLERANCE_S`.

    Args:
        corpus: what `build_corpus` made of `videos`.
        videos: toy videos with their truth.
        split: which split.

    Returns:
        `f1_visible`: true borders that no frame shows are left out, as is a found border near one; `f1_all`: all
        count; `num`: true borders in all.
    """
    matches = {"visible": 0, "all": 0}
    sizes = {"visible": 0, "all": 0}
    num = 0
    for record in read_corpus(corpus, split, include_dropped=True):
        steps = json.loads((videos / split / f"{Path(record.video_id).name}.json").read_text())["steps"]
        found = [clip.start_s for clip in record.clips[1:]]
        everything = [step["end_s"] for step in steps[:-1]]
        invisible = [step["end_s"] for step in steps[:-1] if step["join"] == "invisible"]
        visible = [border for border in everything if border not in invisible]
        near_invisible = count_matches(found, invisible, TOLERANCE_S)
        for kind, truth, num_found in (
            ("visible", visible, len(found) - near_invisible),
            ("all", everything, len(found)),
        ):
            matches[kind] += count_matches(found, truth, TOLERANCE_S)
            sizes[kind] += num_found + len(truth)
        num += len(everything)
    return {
        "f1_visible": 2 * matches["visible"] / max(1, sizes["visible"]),
        "f1_all": 2 * matches["all"] / max(1, sizes["all"]),
        "num": num,
    }
