"""One rank of a plan, in a process of its own: `python -m dataset_builder.engines.rank RUN_FOLDER RANK`.

The process of its own keeps a rank apart from what starts it: torch does not run in a forked process, and a rank that
is killed (out of memory) is an error with its number, where a pool of processes would wait for it for ever.
"""

import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.engines.plan import Run
from dataset_builder.engines.workers import forget_batch_shapes, run_jobs
from dataset_builder.errors import BuildStopped


def run_rank(run: Run, rank: int) -> None:
    """Make the outcomes of a rank's videos that are not there yet, and pack them into one file.

    Raises:
        ValueError, WriteError: what a tool that cannot be loaded or a full disk says.
    """
    videos, outcomes = run.videos(rank), Outcomes(run.state)
    jobs = [(source, outcomes.path(key)) for key, source in videos if outcomes.load(key, source) is None]
    if jobs:  # else no model has to be loaded
        for _ in run_jobs(jobs, run.recipe, workers=1):
            pass
    outcomes.pack(f"{run.folder.name}-{rank:05d}", videos)


def run_rank_apart(run: Run, rank: int) -> None:
    """`run_rank` in a process of its own.

    Raises:
        BuildStopped: with the rank and what it said last, where it failed or was killed.
    """
    command = [sys.executable, "-m", "dataset_builder.engines.rank", str(run.folder), str(rank)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, errors="replace")
    if ended.returncode:
        sys.stderr.write(ended.stderr)  # into the log of the rank
        said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        cause = f"was killed by signal {-ended.returncode} (out of memory?)" if ended.returncode < 0 else said
        raise BuildStopped(f"rank {rank}: {cause}")


def main() -> None:
    """Run one rank; ends with 1 and one line where it cannot."""
    folder, rank = sys.argv[1:]
    forget_batch_shapes()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        run_rank(Run(Path(folder)), int(rank))
    except Exception as error:
        said = str(error)
        if not isinstance(error, ValueError | OSError):  # a bug, or of a library: the log tells where
            traceback.print_exc()
            said = f"{type(error).__name__}: {said}"
        sys.exit(" ".join([*said.split(), *getattr(error, "__notes__", ())]))


def _end_with_parent(parent: int) -> None:
    """A rank whose executor was killed ends too, so that the next one does not do the same work beside it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
