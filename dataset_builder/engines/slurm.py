"""The engine `slurm`: an array job with a task per rank, then a job that assembles, through datatrove's executor."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dataset_builder.atomic import write_whole
from dataset_builder.engines.cluster import ClusterSettings
from dataset_builder.engines.plan import VIDEOS_PER_RANK, Run, make_plan
from dataset_builder.engines.work import Work
from dataset_builder.errors import BuildStopped
from dataset_builder.fingerprint import inputs_key


def run_on_slurm(work: Work, cluster: ClusterSettings, videos_per_rank: int = VIDEOS_PER_RANK) -> str:
    """Submit what is missing. Input, output and this environment must lie on a disk that all nodes share.

    Returns:
        What was submitted, or is still running from before; "" where every outcome is there and nothing is left but
        to assemble.

    Raises:
        ValueError: where datatrove is not installed, or this machine has no `sbatch`.
        BuildStopped: where jobs of another build of this folder are there.
    """
    refuse_beside_jobs(work, except_of=inputs_key(work.recipe, work.keys))
    if not work.missing():
        return ""
    if not shutil.which("sbatch"):
        raise ValueError("engine slurm: there is no sbatch on this machine; run it where jobs are submitted")
    run = make_plan(work, videos_per_rank)
    running = _still_queued(run)
    if running:
        return f"still queued or running: jobs {running} (squeue --jobs={running}); logs in {run.folder}"
    ranks, assembly = submit(run, work, cluster)
    return f"submitted: ranks as job {ranks}, assembly as job {assembly}; logs in {run.folder}; run again to follow"


def submit(run: Run, work: Work, cluster: ClusterSettings) -> tuple[str, str]:
    """Hand both jobs to Slurm; a rank with a completion marker is not submitted again.

    Returns:
        Ids of the array job (the last one, `none` where every rank is complete) and of the assembling job.

    Raises:
        ValueError: where datatrove is not installed, or Slurm refuses.
    """
    try:
        from datatrove.executor.slurm import SlurmPipelineExecutor
        from loguru import logger
    except ImportError as error:
        raise ValueError("engine slurm needs datatrove: pip install 'cosmo-vlm[cluster]'") from error
    from dataset_builder.engines.steps import AssembleStep, RankStep

    logger.disable("datatrove")  # what it says is in the line that is printed, and in the logs
    bin_folder = shlex.quote(str(Path(sys.executable).parent))
    common: dict[str, Any] = {
        "time": cluster.time,
        "partition": cluster.partition,
        "qos": cluster.qos,
        "cpus_per_task": cluster.cpus_per_rank,
        "mem_per_cpu_gb": cluster.memory_gb_per_cpu,
        "env_command": cluster.setup or f"export PATH={bin_folder}:$PATH",
        "sbatch_args": {"account": cluster.account} if cluster.account else {},
        "with_srun": False,  # a rank is one process on one node
        "requeue": False,  # a rank that fails is told, not tried again by itself
    }
    _forget_marks_without_outcomes(run)
    ranks = SlurmPipelineExecutor(
        pipeline=[RankStep(str(run.folder))],
        tasks=run.num_ranks,
        workers=work.workers or -1,
        gpus_per_task=cluster.gpus_per_rank,
        job_name="cosmo-ranks",
        logging_dir=str(run.folder / "ranks"),
        **common,
    )
    assembly = SlurmPipelineExecutor(
        pipeline=[AssembleStep(str(run.folder), str(work.input_dir.absolute()), str(work.output_dir.absolute()))],
        tasks=1,
        depends=ranks,
        job_name="cosmo-assembly",
        logging_dir=str(run.folder / "assembly"),
        skip_completed=False,  # it was not, or this would not have been called
        **common | {"sbatch_args": common["sbatch_args"] | {"kill-on-invalid-dep": "yes"}},  # else it waits for ever
    )
    try:
        assembly.run()
    except subprocess.CalledProcessError as error:
        raise ValueError(f"sbatch refused (exit code {error.returncode}); see what it said above") from error
    jobs = {"ranks": str(ranks.job_id) if ranks.job_id != -1 else "none", "assembly": str(assembly.job_id)}
    write_whole(run.folder / "jobs.json", json.dumps(jobs))
    return jobs["ranks"], jobs["assembly"]


def refuse_beside_jobs(work: Work, except_of: str = "") -> None:
    """Let no build write to a folder while jobs of another one, which hold no lock, wait or run.

    Args:
        work: the build.
        except_of: key of the run whose jobs may be there.

    Raises:
        BuildStopped: naming the jobs.
    """
    for folder in sorted((work.state / "runs").glob("*")):
        jobs = "" if folder.name == except_of else _still_queued(Run(folder))
        if jobs:
            raise BuildStopped(
                f"another build is writing to {work.output_dir}: jobs {jobs} of Slurm; "
                f"wait for them (squeue --jobs={jobs}), or scancel them"
            )


def _forget_marks_without_outcomes(run: Run) -> None:
    """A completion marker whose outcomes are gone (deleted, or a lost disk) would keep its rank from ever running."""
    marks = run.folder / "ranks" / "completions"
    if marks.is_dir():
        for rank in run.incomplete():
            (marks / f"{rank:05d}").unlink(missing_ok=True)


def _still_queued(run: Run) -> str:
    """Ids of jobs of an earlier submission that Slurm has not finished, with commas; "" where there are none."""
    try:
        jobs = json.loads((run.folder / "jobs.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    ids = [job for job in jobs.values() if job != "none"]
    queued = [job for job in ids if _is_queued(job)]
    return ",".join(queued)


def _is_queued(job: str) -> bool:
    """Whether Slurm still knows the job as waiting or running; it answers an old id with an error."""
    command = ["squeue", "--noheader", f"--jobs={job}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    except FileNotFoundError:
        return False
    return answer.returncode == 0 and bool(answer.stdout.strip())
