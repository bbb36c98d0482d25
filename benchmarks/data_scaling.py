"""How a build scales with the number of workers and with the number of videos.

`rows` gives two rows for the table of the data side; both build toy videos with the recipe `toy`, in new processes.

    python -m benchmarks.data_scaling [--rounds N] [--videos N] [--few N --many N] [--only workers|memory]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, table
from dataset_builder.inputs import find_videos
from dataset_builder.toy.videos import write_toy_videos


BUILD = """
import sys
from dataset_builder import build_corpus
if __name__ == "__main__":
    summary = build_corpus(sys.argv[1], sys.argv[2], "toy", workers=int(sys.argv[3]), progress=False)
    sys.exit(summary.exit_code)
"""
SAMPLE_EVERY_S = 0.2


def scaling_row(num_videos: int, rounds: int, folder: Path) -> Row:
    """Compare one build by two workers with two simultaneous builds of half the videos by one worker each.

    Args:
        num_videos: number of toy videos in all, even, and large enough that starting Python does not dominate.
        rounds: each round times both, one after the other; the median of the rounds' ratios counts.
        folder: folder to work in.
    """
    whole, halves = folder / "whole", [folder / "half0", folder / "half1"]
    write_toy_videos(whole, num_videos, seed=0, progress=False)
    for index, source in enumerate(find_videos(whole)):
        for path in source.path.parent.glob(f"{source.path.stem}.*"):
            target = halves[index % 2] / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    script = _script(folder)
    together, apart = list[float](), list[float]()
    for turn in range(rounds):
        together.append(_seconds([_command(script, whole, folder / f"out{turn}", workers=2)]))
        apart.append(
            _seconds([_command(script, half, folder / f"{half.name}-out{turn}", workers=1) for half in halves])
        )
    ratio = statistics.median(alone / both for alone, both in zip(apart, together, strict=True))
    detail = (
        f"{num_videos} toy videos: {statistics.median(together):.1f} s by 2 workers, "
        f"{statistics.median(apart):.1f} s by 2 processes with half of them each"
    )
    return Row(name="2 workers, speed against 2 independent processes", value=ratio, goal=">= 0.9", detail=detail)


def memory_row(few: int, many: int, folder: Path) -> Row:
    """Compare the largest memory of any worker in a build of many videos with that in a build of few.

    Args:
        few: number of toy videos.
        many: number of toy videos.
        folder: folder to work in.
    """
    script, peaks = _script(folder), list[tuple[float, float]]()
    for num_videos in (few, many):
        videos = folder / f"videos{num_videos}"
        write_toy_videos(videos, num_videos, seed=1, progress=False)
        command = _command(script, videos, folder / f"corpus{num_videos}", workers=2)
        peaks.append(_peaks_mb(command))
    (worker_few, main_few), (worker_many, main_many) = peaks
    detail = (
        f"{many} toy videos against {few}: {worker_many:.0f} MB and {worker_few:.0f} MB a worker, "
        f"{main_many:.0f} MB and {main_few:.0f} MB for the process that hands out and assembles"
    )
    return Row(
        name=f"memory of a worker, {many} videos against {few}",
        value=worker_many / worker_few,
        goal="<= 1.1",
        detail=detail,
    )


def rows(rounds: int = 3, num_videos: int = 240, few: int = 200, many: int = 2000) -> list[Row]:
    """Measure both rows for the table of the data side."""
    with tempfile.TemporaryDirectory() as folder:
        return [scaling_row(num_videos, rounds, Path(folder)), memory_row(few, many, Path(folder))]


def _script(folder: Path) -> Path:
    path = folder / "build.py"  # it must be a file: the workers' interpreters start from it
    path.write_text(BUILD)
    return path


def _command(script: Path, videos: Path, output: Path, workers: int) -> list[str]:
    return [sys.executable, str(script), str(videos), str(output), str(workers)]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}


def _seconds(commands: list[list[str]]) -> float:
    """Wall time until the last of these commands ends; all start at the same time."""
    started = time.perf_counter()
    processes = [subprocess.Popen(command, env=_environment()) for command in commands]
    codes = [process.wait() for process in processes]
    assert not any(codes), f"a build ended with {codes}"
    return time.perf_counter() - started


def _peaks_mb(command: list[str]) -> tuple[float, float]:
    """Largest resident memory of a worker, and of the process that starts them, in MB, as Linux counts it."""
    worker, main = 0.0, 0.0
    with subprocess.Popen(command, env=_environment()) as process:
        while process.poll() is None:
            main = max(main, _peak_mb(process.pid))
            worker = max([worker, *(_peak_mb(child) for child in _workers_of(process.pid))])
            time.sleep(SAMPLE_EVERY_S)
    assert process.returncode == 0, "the build failed"
    return worker, main


def _workers_of(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except FileNotFoundError:  # it has just ended
        return []


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), "0")
    return int(peak) * 1024 / 1e6


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--videos", type=int, default=240)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--many", type=int, default=2000)
    parser.add_argument("--only", choices=("workers", "memory"))
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "memory":
            found.append(scaling_row(options.videos, options.rounds, Path(folder)))
        if options.only != "workers":
            found.append(memory_row(options.few, options.many, Path(folder)))
    print(table(found))


if __name__ == "__main__":
    main()
