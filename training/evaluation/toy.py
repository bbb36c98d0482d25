"""Scores on the toy world's test split, with known truth: captions, retrieval, order of frames.

Axes: N clips, F frames, P patches, D_v width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_builder.toy.world import ACTIONS, BACKGROUNDS, COLOURS, ORDER_ONLY_PAIRS, SEEN, SHAPES, Scene
from dataset_builder.video.decode import frames_at, middle_times
from training.data.features import encode, pixels_of
from training.evaluation.captioning import caption_clips
from training.evaluation.metrics import Cider
from training.evaluation.retrieval import recall_both_ways, text_video_similarity


ORDER_ONLY = frozenset(action for pair in ORDER_ONLY_PAIRS for action in pair)


@dataclass(frozen=True, kw_only=True)
class TestClip:
    """One step of a test video, with its true borders."""

    __test__ = False  # pytest must not collect it because of its name

    video: Path
    start_s: float
    end_s: float
    scene: Scene
    caption: str


def load_test_clips(folder: Path) -> list[TestClip]:
    """Load every step of the toy videos in a folder, in order.

    Raises:
        ValueError: if there are none.
    """
    clips = []
    for path in sorted(folder.glob("*.json")):
        for step in json.loads(path.read_text())["steps"]:
            scene = Scene(**{name: step[name] for name in ("shape", "colour", "action", "background")})
            clips.append(
                TestClip(
                    video=path.with_suffix(".mp4"),
                    start_s=step["start_s"],
                    end_s=step["end_s"],
                    scene=scene,
                    caption=step["caption"],
                )
            )
    if not clips:
        raise ValueError(f"{folder} holds no toy videos with their truth")
    return clips


def encode_clips(model: Any, processor: Any, clips: Sequence[TestClip], num_frames: int) -> torch.Tensor:
    """Encode clips with the frozen tower: float16 (N, F, P, D_v)."""
    encoded = [encode(model, pixels_of(processor, clip_frames(clip, num_frames))) for clip in clips]
    return torch.stack(encoded)


def clip_frames(clip: TestClip, num_frames: int) -> np.ndarray:
    """Decode the middle frame of each of F equal parts of a clip: uint8 (F, 3, H, W)."""
    frames = frames_at(clip.video, middle_times(clip.start_s, clip.end_s, num_frames))
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))


def choose_distinct(clips: Sequence[TestClip], num: int, seed: int) -> list[int]:
    """Draw the indices of up to `num` clips with different captions."""
    chosen: dict[str, int] = {}
    for index in np.random.default_rng(seed).permutation(len(clips)).tolist():
        chosen.setdefault(clips[index].caption, index)
        if len(chosen) == num:
            break
    return list(chosen.values())


def derangement(clips: Sequence[TestClip], seed: int) -> list[int]:
    """Draw which clip's pixels each clip gets in the blind test: a permutation in which no clip keeps its own."""
    order = np.random.default_rng(seed).permutation(len(clips))
    shuffled = np.empty_like(order)
    shuffled[order] = np.roll(order, 1)  # one cycle through all clips
    return shuffled.tolist()


def caption_scores(predicted: Sequence[str], clips: Sequence[TestClip]) -> dict[str, float]:
    """Return the shares of captions with true colour and shape, and with true action; CIDEr; number of clips."""
    objects = [clip.scene.object_phrase in text for text, clip in zip(predicted, clips, strict=True)]
    actions = [clip.scene.action_phrase in text for text, clip in zip(predicted, clips, strict=True)]
    cider = Cider().compute(predictions=list(predicted), references=[[clip.caption] for clip in clips])["cider"]
    return {
        "object_accuracy": float(np.mean(objects)),
        "action_accuracy": float(np.mean(actions)),
        "cider": float(cider),
        "num": len(clips),
    }


def order_accuracy(predicted: Sequence[str], clips: Sequence[TestClip]) -> float:
    """Return the share of right actions among clips whose action only the order of frames tells from its partner."""
    right = [
        clip.scene.action_phrase in text
        for text, clip in zip(predicted, clips, strict=True)
        if clip.scene.action in ORDER_ONLY
    ]
    return float(np.mean(right)) if right else float("nan")


def chance_scores(clips: Sequence[TestClip], num_retrieval: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the scores of guessing: shares by counting, CIDEr from captions of random seen scenes."""
    rng = np.random.default_rng(seed)
    guesses = []
    for _ in clips:
        shape, colour, action = SEEN[rng.integers(len(SEEN))]
        background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        guesses.append(Scene(shape=shape, colour=colour, action=action, background=background).caption)
    guessed = caption_scores(guesses, clips)
    return {
        "caption": {
            **guessed,
            "object_accuracy": 1 / (len(SHAPES) * len(COLOURS)),
            "action_accuracy": 1 / len(ACTIONS),
        },
        "retrieval": {
            "text_to_video_r1": 1 / num_retrieval,
            "video_to_text_r1": 1 / num_retrieval,
            "num": num_retrieval,
        },
    }


def evaluate_toy(
    model: Any, processor: Any, folder: Path, *, num_frames: int, num_retrieval: int, seed: int
) -> dict[str, Any]:
    """Score a model on a folder of toy test videos, and add the blind scores and chance.

    Args:
        model: a `CosmoForConditionalGeneration`.
        processor: its processor.
        folder: test videos with their truth.
        num_frames: frames of a clip that the model sees.
        num_retrieval: maximum number of clips, with different captions, in the search.
        seed: seed of the draw of these clips and of the blind test's shuffle.

    Returns:
        `caption`, `retrieval`, `blind`, `chance` as in results.json; `order_accuracy`; `clips`: the caption
        written for each clip; `search`: index of each retrieval clip, and the five best clips for its caption, best
        first.
    """
    clips = load_test_clips(folder)
    features = encode_clips(model, processor, clips, num_frames)
    shuffled = derangement(clips, seed)
    predicted = caption_clips(model, processor, features)
    predicted_blind = caption_clips(model, processor, features[shuffled])
    chosen = choose_distinct(clips, num_retrieval, seed)
    captions = [clips[index].caption for index in chosen]
    similarity = text_video_similarity(model, processor, features[chosen], captions)
    mixed = derangement([clips[index] for index in chosen], seed)
    best = np.argsort(-similarity, axis=1)[:, :5]
    return {
        "caption": caption_scores(predicted, clips),
        "retrieval": recall_both_ways(similarity),
        "blind": {
            "caption": caption_scores(predicted_blind, clips),
            "retrieval": recall_both_ways(similarity[:, mixed]),
        },
        "chance": chance_scores(clips, len(chosen), seed),
        "order_accuracy": order_accuracy(predicted, clips),
        "clips": [
            {
                "video": clip.video.name,
                "start_s": clip.start_s,
                "end_s": clip.end_s,
                "caption": clip.caption,
                "predicted": text,
            }
            for clip, text in zip(clips, predicted, strict=True)
        ],
        "search": [
            {"clip": chosen[row], "best": [chosen[column] for column in best[row].tolist()]}
            for row in range(len(chosen))
        ],
    }
