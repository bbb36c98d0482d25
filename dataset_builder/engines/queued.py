"""Find Slurm jobs of an earlier build: while they wait or run, no other build may write to the folder."""

import json
import os
import subprocess

from dataset_builder.engines.plan import RankPlan
from dataset_builder.engines.work import Work
from dataset_builder.errors import BuildStopped


def refuse_beside_jobs(work: Work, except_of: str = "") -> None:
    """Refuse to build in a folder while jobs of another build, which hold no lock, wait or run.

    Args:
        work: the build.
        except_of: key of the plan whose jobs are allowed.

    Raises:
        BuildStopped: naming the jobs.
    """
    for folder in sorted((work.state / "runs").glob("*")):
        jobs = "" if folder.name == except_of else still_queued(RankPlan(folder))
        if jobs:
            raise BuildStopped(
                f"another build is writing to {work.output_dir}: jobs {jobs} of Slurm; "
                f"wait for them (squeue --jobs={jobs}), or scancel them"
            )


def still_queued(plan: RankPlan) -> str:
    """Ids, with commas, of an earlier submission's jobs that Slurm has not finished; "" if there are none."""
    try:
        jobs = json.loads((plan.folder / "jobs.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    ids = [job for job in jobs.values() if job != "none"]
    queued = [job for job in ids if _is_queued(job)]
    return ",".join(queued)


def _is_queued(job: str) -> bool:
    """Whether Slurm lists the job as waiting or running; for an old id it returns an error."""
    command = ["squeue", "--noheader", f"--jobs={job}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    except FileNotFoundError:
        return False
    return answer.returncode == 0 and bool(answer.stdout.strip())
