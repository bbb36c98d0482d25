"""Write toy videos: `DIR/{train,validation,test}/NAME.{mp4,vtt,json}`; same seed, same bytes of annotations."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dataset_builder.atomic import replacing, write_whole
from dataset_builder.toy.narration import OFF_TOPIC, NarratedSentence, narrate, to_webvtt
from dataset_builder.toy.render import PAN_FRAMES, Appearance, blend_poses, draw_look, draw_pose, pan, render_step
from dataset_builder.toy.world import BACKGROUNDS, COLOURS, SHAPES, Scene, combinations_of


FRAME_RATE_HZ = 8
SIZES_PX = (64, 96)
SPLIT_SHARES = {"test": 0.15, "validation": 0.05}
INVISIBLE_SHARE = 0.18
"""Share of joins that are visible in no frame, because only the action changes; below the promised 20 %."""
MOVE_SHARE = 0.30
FAULT_KINDS = ("mismatched_caption", "black_clip", "duplicate_video", "off_topic_speech", "personal_data")
_SPLIT_CODES = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A step before it is drawn; `join` is its transition to the next one, None at the end."""

    scene: Scene
    num_frames: int
    join: str | None


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """Everything that one video depends on."""

    split: str
    index: int
    seed: int
    size_px: int
    faults: float

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"{self.split}-{self.index:06d}"


def write_toy_videos(
    output: Path,
    num_videos: int,
    seed: int,
    size_px: int = 64,
    faults: float = 0.0,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Render `num_videos` narrated videos with their subtitles and ground truth.

    Args:
        output: folder to write; complete videos that are already there are kept.
        num_videos: videos over all splits: about 15 % test, 5 % validation, the rest train; at least 3.
        seed: two calls with the same seed write the same annotations, whatever the number of workers.
        size_px: side of the square picture, 64 or 96.
        faults: share of the videos that get one planted fault each, recorded under `faults` in their JSON.
        workers: number of processes; None uses one per core.
        progress: whether to show a progress bar.

    Returns:
        Number of videos in each split.

    Raises:
        ValueError: if an argument is out of range, or the folder holds videos with other settings.
    """
    if num_videos < 3:
        raise ValueError(f"num_videos is {num_videos}, expected at least 3: one for each split")
    if size_px not in SIZES_PX:
        raise ValueError(f"size_px is {size_px}, expected one of {SIZES_PX}")
    if not 0 <= faults <= 1:
        raise ValueError(f"faults is {faults}, expected a share from 0 to 1")
    counts = {split: max(1, round(share * num_videos)) for split, share in SPLIT_SHARES.items()}
    counts = {"train": num_videos - sum(counts.values()), **counts}
    _claim_folder(output, {"seed": seed, "size_px": size_px, "faults": faults, "num_videos": num_videos})
    jobs = [
        VideoJob(split=split, index=index, seed=seed, size_px=size_px, faults=faults)
        for split, count in counts.items()
        for index in range(count)
    ]
    write = partial(write_video, output=output)
    workers = workers or os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(workers) if workers > 1 else _Serial() as pool:
        done = pool.imap_unordered(write, jobs, chunksize=8)
        for _ in tqdm(done, total=len(jobs), desc="toy videos", unit="video", disable=not progress):
            pass
    return counts


class _Serial:
    """The methods of a pool that we need, in this process."""

    def __enter__(self) -> "_Serial":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def imap_unordered(self, function: partial[None], jobs: list[VideoJob], chunksize: int) -> Iterator[None]:
        return map(function, jobs)


def _claim_folder(output: Path, settings: dict[str, float]) -> None:
    """Record the settings of the folder, and refuse one that holds videos with other settings."""
    note = output / "settings.json"
    if note.exists() and json.loads(note.read_text()) != settings:
        raise ValueError(
            f"{output} holds toy videos with other settings: {note.read_text().strip()}; expected {settings}"
        )
    output.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(settings))


def write_video(job: VideoJob, output: Path) -> None:
    """Write one video, its subtitles and its truth; the JSON comes last, so its presence marks a complete video."""
    folder = output / job.split
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{job.name}.json").exists():
        return
    source, fault = _source_and_fault(job)
    frames, steps, sentences = _draw_video(source, fault)
    with replacing(folder / f"{job.name}.mp4") as partial_mp4:
        encode_mp4(frames, partial_mp4)
    truth = {
        "video_id": job.name,
        "split": job.split,
        "frame_rate_hz": FRAME_RATE_HZ,
        "duration_s": len(frames) / FRAME_RATE_HZ,
        "steps": steps,
        "speech": [asdict(sentence) for sentence in sentences],
        "faults": [fault] if fault else [],
    }
    write_whole(folder / f"{job.name}.vtt", to_webvtt(sentences))
    write_whole(folder / f"{job.name}.json", json.dumps(truth, indent=1))


def _source_and_fault(job: VideoJob) -> tuple[VideoJob, dict[str, object] | None]:
    """The job whose content the video shows (its own, except for a planted duplicate), and its planted fault."""
    rng = np.random.default_rng([job.seed, _SPLIT_CODES[job.split], job.index, 1])
    if rng.random() >= job.faults:
        return job, None
    kind = FAULT_KINDS[rng.integers(len(FAULT_KINDS))]
    if kind == "duplicate_video" and job.index > 0:
        original = replace(job, index=job.index - 1, faults=0.0)
        return original, {"kind": kind, "of": original.name}
    if kind == "duplicate_video":  # the first video has none before it to repeat
        kind = FAULT_KINDS[0]
    return job, {"kind": kind, "seed": int(rng.integers(2**31))}


def _draw_video(
    job: VideoJob, fault: dict[str, object] | None
) -> tuple[NDArray[np.uint8], list[dict[str, object]], list[NarratedSentence]]:
    """Draw the frames (T, S, S, 3), step records and speech of a video, with its fault planted."""
    rng = np.random.default_rng([job.seed, _SPLIT_CODES[job.split], job.index])
    plan = plan_steps(job.split, rng)
    frames = _render(plan, job.size_px, rng)
    borders = np.cumsum([0] + [step.num_frames for step in plan]) / FRAME_RATE_HZ
    spans = list(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True))
    records = [
        {
            "start_s": start_s,
            "end_s": end_s,
            **asdict(step.scene),
            "caption": step.scene.caption,
            "object_phrase": step.scene.object_phrase,
            "action_phrase": step.scene.action_phrase,
            "join": step.join,
        }
        for step, (start_s, end_s) in zip(plan, spans, strict=True)
    ]
    sentences = narrate([step.scene for step in plan], spans, float(borders[-1]), rng)
    if fault and fault["kind"] != "duplicate_video":
        sentences = _plant(fault, frames, records, sentences)
    return frames, records, sentences


def plan_steps(split: str, rng: np.random.Generator) -> list[PlannedStep]:
    """Plan three to six steps of 2 to 4 s; a join that cannot be invisible in this split becomes a cut."""
    combinations = combinations_of(split)
    num_steps = int(rng.integers(3, 7))
    scenes = [_draw_scene(combinations, rng)]
    joins: list[str | None] = []
    while len(scenes) < num_steps:
        kind = rng.random()
        last = scenes[-1]
        others = [c for c in combinations if c[:2] == (last.shape, last.colour) and c[2] != last.action]
        if kind < INVISIBLE_SHARE and others:
            scenes.append(replace(last, action=others[rng.integers(len(others))][2]))
            joins.append("invisible")
            continue
        joins.append("move" if kind > 1 - MOVE_SHARE else "cut")
        scenes.append(_draw_scene(combinations, rng, unlike=last))
    return [
        PlannedStep(scene=scene, num_frames=int(rng.integers(2 * FRAME_RATE_HZ, 4 * FRAME_RATE_HZ + 1)), join=join)
        for scene, join in zip(scenes, [*joins, None], strict=True)
    ]


def _draw_scene(
    combinations: tuple[tuple[str, str, str], ...], rng: np.random.Generator, unlike: Scene | None = None
) -> Scene:
    """A random scene of the split whose object and background both differ from the previous scene."""
    while True:
        shape, colour, action = combinations[rng.integers(len(combinations))]
        background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        if unlike is None or ((shape, colour) != (unlike.shape, unlike.colour) and background != unlike.background):
            return Scene(shape=shape, colour=colour, action=action, background=background)


def _render(plan: list[PlannedStep], size_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render all frames of a video, joins included."""
    pieces: list[NDArray[np.uint8]] = []
    appearance: Appearance = draw_look(rng)
    last_pose = None
    for index, step in enumerate(plan):
        join_before = plan[index - 1].join if index else None
        if join_before in ("cut", "move"):
            appearance = draw_look(rng)
        pose = draw_pose(step.scene.action, appearance, step.num_frames, rng)
        if join_before == "invisible" and last_pose is not None:
            pose = blend_poses(last_pose, pose)
        frames = render_step(step.scene, appearance, pose, size_px)
        if join_before == "move":
            _pan_across(pieces[-1], frames)
        pieces.append(frames)
        last_pose = pose
    return np.concatenate(pieces)


def _pan_across(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
    """Write a pan over the last frames of one step and the first of the next, in place."""
    half = PAN_FRAMES // 2
    old = np.concatenate([before[-half:], np.repeat(before[-1:], half, axis=0)])
    new = np.concatenate([np.repeat(after[:1], half, axis=0), after[:half]])
    panned = pan(old, new)
    before[-half:], after[:half] = panned[:half], panned[half:]


def _plant(
    fault: dict[str, object],
    frames: NDArray[np.uint8],
    records: list[dict[str, object]],
    sentences: list[NarratedSentence],
) -> list[NarratedSentence]:
    """Plant a fault into frames and records in place, note where, and return the sentences with it."""
    rng = np.random.default_rng(int(str(fault.pop("seed"))))
    step_index = int(rng.integers(len(records)))
    step = records[step_index]
    fault.update(step_index=step_index, start_s=step["start_s"], end_s=step["end_s"])
    if fault["kind"] == "mismatched_caption":
        others = [(s, c) for s in SHAPES for c in COLOURS if s != step["shape"] and c != step["colour"]]
        shape, colour = others[rng.integers(len(others))]
        wrong = Scene(shape=shape, colour=colour, action=str(step["action"]), background=str(step["background"]))
        fault["true_caption"] = step["caption"]
        step["caption"] = wrong.caption
    elif fault["kind"] == "black_clip":
        first, last = (round(float(str(step[key])) * FRAME_RATE_HZ) for key in ("start_s", "end_s"))
        frames[first:last] = 0
    else:
        spoken = int(rng.integers(len(sentences)))
        text = (
            OFF_TOPIC[rng.integers(len(OFF_TOPIC))]
            if fault["kind"] == "off_topic_speech"
            else f"write to me at toy{rng.integers(1000)}@example.org or call 555 01{rng.integers(10, 100)}"
        )
        fault["sentence_index"] = spoken
        changed = replace(sentences[spoken], text=text, step_index=None)
        return [*sentences[:spoken], changed, *sentences[spoken + 1 :]]
    return sentences


def encode_mp4(frames: NDArray[np.uint8], target: Path | BinaryIO, frame_rate_hz: int = FRAME_RATE_HZ) -> None:
    """Encode RGB frames (T, H, W, 3) as an H.264 mp4; one thread, so that the same frames give the same bytes."""
    with av.open(str(target) if isinstance(target, Path) else target, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frame_rate_hz)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"preset": "veryfast", "crf": "18", "g": "24"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
