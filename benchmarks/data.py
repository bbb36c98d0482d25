"""Benchmarks of the data side: reading frames, cutting videos, finding faults, and scaling with cores.

Speeds are ratios within one run, medians over interleaved rounds; decoding is timed as processor time of all threads.
Real files come from the folder COSMO_SAMPLES; rows that need them, or torchcodec, are left out if these are missing.

    python -m benchmarks.data [--rounds N] [--only decode,kts,quality,scaling] [--write]
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from benchmarks import data_scaling
from benchmarks.table import Row, table, write_section
from dataset_builder.build import build_corpus
from dataset_builder.compare.kts import best_scatters, kts, scatters
from dataset_builder.recipe import load_recipe
from dataset_builder.schema import Clip, InterleavedVideo
from dataset_builder.toy.found_faults import count_found, speech_accuracy
from dataset_builder.toy.videos import write_toy_videos
from dataset_builder.video.decode import decode_clip, middle_times
from training.evaluation.borders import border_scores


FRAMES_PER_CLIP = 3
REAL_SIZE = (640, 480)
PLAIN_INPUTS, PLAIN_FRAMES, PLAIN_SEGMENTS = 5, 23, 7  # for comparing KTS with its definition
QUALITY_VIDEOS, QUALITY_SEED = 300, 97
RELEASED_WAY = {
    "speech.align": "overlap", "speech.off_topic_below": None, "score": None, "filter": None, "deduplicate": None,
}  # fmt: skip
"""Assign speech by time overlap alone, without anything that would find faults."""


def read_by_seeking(path: Path, times_s: list[float]) -> np.ndarray:
    """Read frames with PyAV, the baseline: one seek per frame, then forward from the key frame before it."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for time_s in times_s:
            container.seek(int(time_s / float(stream.time_base or 1)), stream=stream)
            shown = None
            for frame in container.decode(stream):
                if shown is not None and frame.time > time_s:
                    break
                shown = frame
            assert shown is not None
            frames.append(shown.to_ndarray(format="rgb24"))
    return np.stack(frames)


def read_by_torchcodec(path: Path, times_s: list[float]) -> np.ndarray:
    """Read the frames shown at these times with torchcodec."""
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(str(path), num_ffmpeg_threads=1).get_frames_played_at(times_s).data.numpy()


def real_clips() -> list[tuple[Path, float]]:
    """Real 640x480 files with their lengths in seconds; each is one clip."""
    folder = Path(os.environ.get("COSMO_SAMPLES", "/nowhere"))
    clips = []
    for path in sorted(folder.glob("videos/**/*.*")):
        if path.suffix not in (".mkv", ".mp4"):
            continue
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if (stream.width, stream.height) == REAL_SIZE:
                clips.append((path, (container.duration or 0) / 1e6))
    return clips


def processor_seconds(call: Callable[[], object]) -> float:
    """Processor time of one call, of all threads."""
    started = time.process_time()
    call()
    return time.process_time() - started


def decode(rounds: int) -> list[Row]:
    """Three frames of every real clip, three ways."""
    clips = real_clips()
    if not clips:
        print("no rows for decoding: COSMO_SAMPLES does not name a folder with 640x480 files")
        return []
    times = {path: middle_times(0.0, duration_s, FRAMES_PER_CLIP) for path, duration_s in clips}
    records = [
        InterleavedVideo(
            video_id=path.stem,
            video_path=path.name,
            duration_s=duration_s,
            clips=(Clip(start_s=0.0, end_s=duration_s),),
        )
        for path, duration_s in clips
    ]
    readers: dict[str, Callable[[], object]] = {
        "seek per frame": lambda: [read_by_seeking(path, times[path]) for path, _ in clips],
        "decode_clip": lambda: [
            decode_clip(record, 0, FRAMES_PER_CLIP, root=path.parent)
            for record, (path, _) in zip(records, clips, strict=True)
        ],
    }
    try:
        read_by_torchcodec(clips[0][0], times[clips[0][0]])
        readers["torchcodec"] = lambda: [read_by_torchcodec(path, times[path]) for path, _ in clips]
    except (ImportError, RuntimeError, OSError) as error:
        print(f"no row for torchcodec: {str(error).splitlines()[0]}")
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(rounds + 1):
        for name, read in readers.items():
            taken_s = processor_seconds(read)
            if turn:
                taken[name].append(taken_s)
    speeds = {name: len(clips) / statistics.median(of_reader) for name, of_reader in taken.items()}
    rows = []
    goals = {"seek per frame": ">= 1.80", "torchcodec": ">= 0.90"}
    for other in speeds.keys() - {"decode_clip"}:
        ratios = [theirs / ours for ours, theirs in zip(taken["decode_clip"], taken[other], strict=True)]
        rows.append(
            Row(
                name=f"{FRAMES_PER_CLIP} frames a clip, clips a processor second, against {other}",
                value=statistics.median(ratios),
                goal=goals[other],
                detail=f"{speeds['decode_clip']:.1f} to {speeds[other]:.1f} of {len(clips)} real clips of 640x480",
            )
        )
    return sorted(rows, key=lambda row: row.name)


def segmentation(rounds: int) -> list[Row]:
    """Kernel temporal segmentation of ten minutes at one frame a second; its value against the definition."""
    embeddings = np.random.default_rng(0).normal(size=(600, 512)).astype(np.float32)
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        kts(embeddings, max_segments=60, penalty=1.0)
        taken.append(time.perf_counter() - started)
    detail = f"embeddings of width 512; {min(taken):.3f} to {max(taken):.3f} s"
    value = statistics.median(taken)
    gap = max(gap_to_definition(seed) for seed in range(PLAIN_INPUTS))
    compared = f"{PLAIN_INPUTS} random inputs of {PLAIN_FRAMES} frames into 1 to {PLAIN_SEGMENTS} segments"
    return [
        Row(name="KTS, 600 frames, up to 60 segments", value=value, goal="<= 0.50", unit="s", detail=detail),
        Row(name="KTS, gap to the plain triple loop's value", value=gap, goal="<= 1e-10", unit="", detail=compared),
    ]


def gap_to_definition(seed: int) -> float:
    """Largest relative gap, over numbers of segments, between the least scatter of KTS and that of plain loops."""
    embeddings = np.random.default_rng(seed).normal(size=(PLAIN_FRAMES, 7))
    ours, _ = best_scatters(scatters(embeddings, PLAIN_FRAMES), PLAIN_SEGMENTS)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    least = [0.0, *[math.inf] * PLAIN_FRAMES]  # of all frames before an end
    gaps = []
    for count in range(PLAIN_SEGMENTS):
        before, least = least, [math.inf] * (PLAIN_FRAMES + 1)
        for end in range(1, PLAIN_FRAMES + 1):
            for start in range(end):
                scatter = float(((unit[start:end] - unit[start:end].mean(axis=0)) ** 2).sum())
                least[end] = min(least[end], before[start] + scatter)
        gaps.append(abs(float(ours[count]) / least[-1] - 1))
    return max(gaps)


def quality(rounds: int) -> list[Row]:
    """Borders, faults and speech of toy videos whose seed no threshold was chosen on; nothing here is a time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_toy_videos(folder / "plain", QUALITY_VIDEOS, QUALITY_SEED, progress=False)
        build_corpus(folder / "plain", folder / "corpus", "toy", progress=False)
        borders = border_scores(folder / "corpus", folder / "plain", "train")
        write_toy_videos(folder / "faulty", QUALITY_VIDEOS, QUALITY_SEED, faults=0.8, progress=False)
        build_corpus(folder / "faulty", folder / "new", "toy_faults", progress=False)
        build_corpus(folder / "faulty", folder / "released", load_recipe("toy_faults", RELEASED_WAY), progress=False)
        new, old = (count_found(folder / "faulty", folder / corpus) for corpus in ("new", "released"))
        speech = [speech_accuracy(folder / "faulty", folder / corpus) for corpus in ("new", "released")]
    border = f"F1 at 0.5 s over {borders['num']:.0f} borders of clean videos"
    rows = [
        Row(name="borders, cuts and moves", value=borders["f1_visible"], goal=">= 0.90", unit="", detail=border),
        Row(name="borders, invisible ones too", value=borders["f1_all"], goal=">= 0.75", unit="", detail=border),
        Row(
            name="on-topic speech in the right clip", value=speech[0], goal=">= 0.95", unit="",
            detail=f"by time overlap alone, as released: {speech[1]:.3f}",
        ),
    ]  # fmt: skip
    for kind, found in new.items():
        beside = f"{found.planted} planted; released way: recall {old[kind].recall:.2f}"
        rows += [
            Row(name=f"{kind}, {share}", value=getattr(found, share), goal=">= 0.90", unit="", detail=beside)
            for share in ("recall", "precision")
        ]
    return rows


SECTIONS: dict[str, tuple[str, Callable[[int], list[Row]]]] = {
    "decode": ("Data: reading frames", decode),
    "kts": ("Data: segmentation", segmentation),
    "quality": ("Data: what a build finds", quality),
    "scaling": ("Data: more workers, more videos", lambda rounds: data_scaling.rows()),
}


def main() -> None:
    """Measure, print, and if asked write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    for name in options.only.split(","):
        title, measure = SECTIONS[name]
        print(table(rows := measure(options.rounds)), flush=True)
        if options.write and rows:
            write_section(title, f"python -m benchmarks.data --only {name} --write", _first_line(measure), rows)


def _first_line(measure: Callable[[int], list[Row]]) -> str:
    return (measure.__doc__ or "Processes of one build, and its memory.").split("\n")[0]


if __name__ == "__main__":
    main()
