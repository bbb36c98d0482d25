"""The engine `slurm`: an array job with a task per rank, then a job that assembles, through datatrove's executor."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dataset_builder.atomic import write_whole
from dataset_builder.engines.cluster import ClusterSettings
from dataset_builder.engines.fingerprint import inputs_key
from dataset_builder.engines.plan import VIDEOS_PER_RANK, RankPlan, make_plan
from dataset_builder.engines.queued import refuse_beside_jobs, still_queued
from dataset_builder.engines.work import Work


def run_on_slurm(work: Work, cluster: ClusterSettings, videos_per_rank: int = VIDEOS_PER_RANK) -> str:
    """Submit the missing work. Input, output and this environment must be on a disk that all nodes share.

    Returns:
        A line about the jobs that were submitted, or still run from before; "" if all outcomes exist and only the
        assembly is left.

    Raises:
        ValueError: if datatrove is not installed, or this machine has no `sbatch`.
        BuildStopped: if jobs of another build of this folder are waiting or running.
    """
    refuse_beside_jobs(work, except_of=inputs_key(work.recipe, work.keys))
    if not work.missing():
        return ""
    if not shutil.which("sbatch"):
        raise ValueError("engine slurm: there is no sbatch on this machine; run it where jobs are submitted")
    plan = make_plan(work, videos_per_rank)
    running = still_queued(plan)
    if running:
        return f"still queued or running: jobs {running} (squeue --jobs={running}); logs in {plan.folder}"
    ranks, assembly = submit(plan, work, cluster)
    return f"submitted: ranks as job {ranks}, assembly as job {assembly}; logs in {plan.folder}; run again to follow"


def submit(plan: RankPlan, work: Work, cluster: ClusterSettings) -> tuple[str, str]:
    """Submit both jobs to Slurm; a rank with a completion marker is not submitted again.

    Returns:
        Ids of the array job (the last one; `none` if every rank is complete) and of the assembly job.

    Raises:
        ValueError: if datatrove is not installed, or Slurm refuses.
    """
    try:
        from datatrove.executor.slurm import SlurmPipelineExecutor
        from loguru import logger
    except ImportError as error:
        raise ValueError("engine slurm needs datatrove: pip install 'cosmo-vlm[cluster]'") from error
    from dataset_builder.engines.steps import AssembleStep, RankStep

    logger.disable("datatrove")  # its messages are in the line that we print, and in the logs
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
        "requeue": False,  # report a failed rank rather than retry it automatically
    }
    _forget_marks_without_outcomes(plan)
    ranks = SlurmPipelineExecutor(
        pipeline=[RankStep(str(plan.folder))],
        tasks=plan.num_ranks,
        workers=work.workers or -1,
        gpus_per_task=cluster.gpus_per_rank,
        job_name="cosmo-ranks",
        logging_dir=str(plan.folder / "ranks"),
        **common,
    )
    folders = str(work.input_dir.absolute()), str(work.output_dir.absolute())
    assembly = SlurmPipelineExecutor(
        pipeline=[AssembleStep(work.build, str(plan.folder), *folders)],
        tasks=1,
        depends=ranks,
        job_name="cosmo-assembly",
        logging_dir=str(plan.folder / "assembly"),
        skip_completed=False,  # it is not complete, or we would not be here
        **common | {"sbatch_args": common["sbatch_args"] | {"kill-on-invalid-dep": "yes"}},  # else it waits forever
    )
    try:
        assembly.run()
    except subprocess.CalledProcessError as error:
        raise ValueError(f"sbatch refused (exit code {error.returncode}); see its message above") from error
    jobs = {"ranks": str(ranks.job_id) if ranks.job_id != -1 else "none", "assembly": str(assembly.job_id)}
    write_whole(plan.folder / "jobs.json", json.dumps(jobs))
    return jobs["ranks"], jobs["assembly"]


def _forget_marks_without_outcomes(plan: RankPlan) -> None:
    """Remove completion markers of ranks whose outcomes are gone (deleted, a lost disk), so that these run again."""
    marks = plan.folder / "ranks" / "completions"
    if marks.is_dir():
        for rank in plan.incomplete():
            (marks / f"{rank:05d}").unlink(missing_ok=True)
