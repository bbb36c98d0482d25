"""Scores of a corpus' clip borders against the toy world's true ones."""

import json
from collections.abc import Sequence
from pathlib import Path

from dataset_builder.corpus.reading import read_corpus


TOLERANCE_S = 0.5


def border_scores(corpus: Path, videos: Path, split: str) -> dict[str, float]:
    """Return the micro-averaged F1 of a split's borders at `TOLERANCE_S`.

    Args:
        corpus: corpus that `build_corpus` made from `videos`.
        videos: toy videos with their truth.
        split: name of the split.

    Returns:
        `f1_visible`: without true borders that no frame shows, and without a found border near such a one; `f1_all`:
        with all borders; `num`: number of true borders.
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


def count_matches(predicted: Sequence[float], truth: Sequence[float], tolerance_s: float) -> int:
    """Count the most possible pairs of a found and a true border within the tolerance, with no border used twice.

    On a line, it is enough to pair both lists in order and to skip a border that is too far back.
    """
    found, true = sorted(predicted), sorted(truth)
    found_index = true_index = matches = 0
    while found_index < len(found) and true_index < len(true):
        gap_s = found[found_index] - true[true_index]
        if abs(gap_s) <= tolerance_s + 1e-9:
            matches, found_index, true_index = matches + 1, found_index + 1, true_index + 1
        elif gap_s > 0:
            true_index += 1
        else:
            found_index += 1
    return matches
