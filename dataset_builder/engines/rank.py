"""Run one rank of a plan in a separate process: `python -m dataset_builder.engines.rank RUN_FOLDER RANK`.

The separate process isolates a rank from its starter: torch does not run in a forked process, and a rank that is
killed (out of memory) becomes an error with its number, while a pool of processes would wait for it forever.
"""

import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.engines.plan import RankPlan
from dataset_builder.engines.workers import forget_batch_shapes, run_jobs
from dataset_builder.errors import BuildStopped


def run_rank(plan: RankPlan, rank: int) -> None:
    """Make the missing outcomes of a rank's videos, and pack all of them into one file.

    Raises:
        ValueError, WriteError: if a tool cannot be loaded, or the disk is full.
    """
    videos, outcomes = plan.videos(rank), Outcomes(plan.state)
    jobs = [(source, outcomes.path(key)) for key, source in videos if outcomes.load(key, source) is None]
    if jobs:  # else there is no need to load models
        for _ in run_jobs(jobs, plan.recipe, workers=1):
            pass
    outcomes.pack(f"{plan.folder.name}-{rank:05d}", videos)


def run_rank_apart(plan: RankPlan, rank: int) -> None:
    """Call `run_rank` in a separate process.

    Raises:
        BuildStopped: if the rank failed or was killed; with its number and its last line of output.
    """
    command = [sys.executable, "-m", "dataset_builder.engines.rank", str(plan.folder), str(rank)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, errors="replace")
    if ended.returncode:
        sys.stderr.write(ended.stderr)  # into the log of the rank
        said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        cause = f"was killed by signal {-ended.returncode} (out of memory?)" if ended.returncode < 0 else said
        raise BuildStopped(f"rank {rank}: {cause}")


def main() -> None:
    """Run one rank; on failure, exit with 1 and print one line."""
    folder, rank = sys.argv[1:]
    forget_batch_shapes()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        run_rank(RankPlan(Path(folder)), int(rank))
    except Exception as error:
        said = str(error)
        if not isinstance(error, ValueError | OSError):  # a bug, or a library's error: log where it occurred
            traceback.print_exc()
            said = f"{type(error).__name__}: {said}"
        sys.exit(" ".join([*said.split(), *getattr(error, "__notes__", ())]))


def _end_with_parent(parent: int) -> None:
    """End this rank when its executor is killed, so that it does not duplicate the work of the next run."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
