"""The data side: reading frames, cutting videos, finding faults, and growing with cores.

Speeds are ratios within one run, medians over interleaved rounds; times of decoding are processor time of all threads.
Real files come from the folder COSMO_SAMPLES; rows that need them, or torchcodec, are left out where these are not.

    python -m benchmarks.data [--rounds N] [--only decode,kts] [--write]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from benchmarks.table import Row, table, write_section
from dataset_builder.decode import decode_clip, middle_times
from dataset_builder.kts import kts
from dataset_builder.schema import Clip, InterleavedVideo


FRAMES_PER_CLIP = 3
REAL_SIZE = (640, 480)


def read_by_seeking(path: Path, times_s: list[float]) -> np.ndarray:
    """The yardstick: PyAV, one seek for every frame, forward from the key frame before it."""
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
    """What is shown at these times, by torchcodec."""
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(str(path), num_ffmpeg_threads=1).get_frames_played_at(times_s).data.numpy()


def real_clips() -> list[tuple[Path, float]]:
    """Real 640x480 files with their lengths in seconds, each one clip."""
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
        print("no rows for decoding: COSMO_SAMPLES names no folder with 640x480 files")
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
    """Kernel temporal segmentation of ten minutes at one frame a second."""
    embeddings = np.random.default_rng(0).normal(size=(600, 512)).astype(np.float32)
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        kts(embeddings, max_segments=60, penalty=1.0)
        taken.append(time.perf_counter() - started)
    detail = f"embeddings of width 512; {min(taken):.3f} to {max(taken):.3f} s"
    value = statistics.median(taken)
    return [Row(name="KTS, 600 frames, up to 60 segments", value=value, goal="<= 0.50", unit="s", detail=detail)]


SECTIONS: dict[str, Callable[[int], list[Row]]] = {"decode": decode, "kts": segmentation}


def main() -> None:
    """Measure, print, and on request write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    rows = []
    for name in options.only.split(","):
        rows += (of_section := SECTIONS[name](options.rounds))
        print(table(of_section), flush=True)
    if options.write:
        write_section("Data", "python -m benchmarks.data --write", __doc__.split("\n\n")[1], rows)


if __name__ == "__main__":
    main()
