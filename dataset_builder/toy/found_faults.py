"""Measure how many of the toy world's planted faults a build finds, and how well it assigns speech to clips."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_builder.corpus.reading import list_splits, read_corpus
from dataset_builder.schema import Clip, InterleavedVideo
from dataset_builder.toy.videos import FAULT_KINDS


MISMATCHED = ("similarity below", "caption belongs to another clip")


@dataclass(frozen=True, kw_only=True)
class FaultCounts:
    """Counts of one kind of fault."""

    planted: int
    """Faults of this kind that the videos hold."""
    missed: int
    """Planted faults that the build did not mark."""
    marked: int
    """Marks of this kind that the build made."""
    wrong: int
    """Marks without such a fault."""

    @property
    def recall(self) -> float:
        """Share of the planted faults that are marked; 1 if there are none."""
        return 1 - self.missed / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        """Share of the marks that are right; 1 if there are none."""
        return 1 - self.wrong / self.marked if self.marked else 1.0


def count_found(toy_dir: Path, corpus_dir: Path) -> dict[str, FaultCounts]:
    """Compare the marks of a build with `caption.captioner: truth` with the planted faults.

    - A mismatched caption counts if a clip of the corpus has it, a black clip if a clip mostly shows that step.
    - A duplicate counts if its original is not itself a duplicate, which would show something else; either of the two
      may be marked.
    - Off topic is every sentence about no step, planted or the narrator's own, except personal data. Sentences about a
      step that was made black match no clip: they count neither way.

    Args:
        toy_dir: folder that `write_toy_videos` wrote.
        corpus_dir: the corpus built from it.
    """
    planted, missed, marked, wrong = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    truths = {name: truth for name, truth, _ in _pairs(toy_dir, corpus_dir)}
    pairs_of_copies = _copies(truths)
    dropped = {
        name
        for name, _, record in _pairs(toy_dir, corpus_dir)
        if all(clip.drop_reason.startswith("duplicate video") for clip in record.clips)
    }
    planted["duplicate_video"] = len(pairs_of_copies)
    missed["duplicate_video"] = sum(not pair & dropped for pair in pairs_of_copies)
    marked["duplicate_video"] = len(dropped)
    wrong["duplicate_video"] = len(dropped - frozenset().union(*pairs_of_copies))
    for name, truth, record in _pairs(toy_dir, corpus_dir):
        if name in dropped:
            continue  # all its clips have that one reason
        fault = truth["faults"][0] if truth["faults"] else {"kind": ""}
        for kind, hits, found in (
            ("mismatched_caption", _with_planted_caption(fault, truth, record), _dropped(record, MISMATCHED)),
            ("black_clip", _showing_step(fault, "black_clip", record), _dropped(record, ("black clip",))),
            ("off_topic_speech", *_off_topic(fault, truth, record)),
            ("personal_data", *_personal(fault, truth, record)),
        ):
            planted[kind] += len(hits)
            missed[kind] += len(hits - found)
            marked[kind] += len(found)
            wrong[kind] += len(found - hits)
    return {
        kind: FaultCounts(planted=planted[kind], missed=missed[kind], marked=marked[kind], wrong=wrong[kind])
        for kind in FAULT_KINDS
    }


def speech_accuracy(toy_dir: Path, corpus_dir: Path) -> float:
    """Share of on-topic sentences that are in the clip that shows their step longest; 0 to 1.

    Only sentences whose step visibly differs from its neighbours count, in videos that have no black step and are not
    duplicates.
    """
    right = total = 0
    for _, truth, record in _pairs(toy_dir, corpus_dir):
        if any(fault["kind"] in ("black_clip", "duplicate_video") for fault in truth["faults"]):
            continue
        steps = truth["steps"]
        for sentence in truth["speech"]:
            index = sentence["step_index"]
            if index is None or _is_invisible(steps, index):
                continue
            shown = [_overlap(clip, steps[index]) for clip in record.clips]
            total += 1
            right += sentence["text"] in record.clips[shown.index(max(shown))].asr
    return right / total if total else 1.0


def _pairs(toy_dir: Path, corpus_dir: Path) -> Iterator[tuple[str, dict[str, Any], InterleavedVideo]]:
    """Yield every record with its name and its truth."""
    for split in list_splits(corpus_dir):
        for record in read_corpus(corpus_dir, split, include_dropped=True):
            truth = json.loads((toy_dir / split / f"{record.video_id}.json").read_text(encoding="utf-8"))
            yield record.video_id, truth, record


def _copies(truths: dict[str, dict[str, Any]]) -> set[frozenset[str]]:
    """Duplicates with their originals."""
    copies = {
        name: str(fault["of"])
        for name, truth in truths.items()
        for fault in truth["faults"]
        if fault["kind"] == "duplicate_video"
    }
    return {frozenset((name, of)) for name, of in copies.items() if of not in copies}


def _dropped(record: InterleavedVideo, starts: tuple[str, ...]) -> set[Any]:
    return {index for index, clip in enumerate(record.clips) if clip.drop_reason.startswith(starts)}


def _with_planted_caption(fault: dict[str, Any], truth: dict[str, Any], record: InterleavedVideo) -> set[Any]:
    if fault["kind"] != "mismatched_caption":
        return set()
    wrong_caption = truth["steps"][fault["step_index"]]["caption"]
    return {index for index, clip in enumerate(record.clips) if clip.caption == wrong_caption}


def _showing_step(fault: dict[str, Any], kind: str, record: InterleavedVideo) -> set[Any]:
    if fault["kind"] != kind:
        return set()
    return {
        index for index, clip in enumerate(record.clips) if _overlap(clip, fault) > (clip.end_s - clip.start_s) / 2
    }


def _off_topic(fault: dict[str, Any], truth: dict[str, Any], record: InterleavedVideo) -> tuple[set[Any], set[Any]]:
    """Sentences off topic, and those left out for that reason, by their start."""
    unseen = fault["step_index"] if fault["kind"] == "black_clip" else None
    neither = {one["start_s"] for one in truth["speech"] if unseen is not None and one["step_index"] == unseen}
    personal = truth["speech"][fault["sentence_index"]]["start_s"] if fault["kind"] == "personal_data" else None
    hits = {one["start_s"] for one in truth["speech"] if one["step_index"] is None} - {personal}
    left_out = record.provenance["speech"].get("left_out", [])
    return hits, {start_s for start_s, _, reason in left_out if reason.startswith("off-topic")} - neither


def _personal(fault: dict[str, Any], truth: dict[str, Any], record: InterleavedVideo) -> tuple[set[Any], set[Any]]:
    """Whether the video holds personal data, and whether a sentence or a clip was left out for it."""
    left_out = [reason for *_, reason in record.provenance["speech"].get("left_out", [])]
    reasons = [*left_out, *(clip.drop_reason for clip in record.clips)]
    found = any(reason.startswith("personal data") for reason in reasons)
    return ({0} if fault["kind"] == "personal_data" else set()), ({0} if found else set())


def _is_invisible(steps: list[dict[str, Any]], index: int) -> bool:
    """Whether a step looks like one of its neighbours."""
    before = steps[index - 1]["join"] if index else None
    return "invisible" in (before, steps[index]["join"])


def _overlap(clip: Clip, step: dict[str, Any]) -> float:
    return min(clip.end_s, step["end_s"]) - max(clip.start_s, step["start_s"])
