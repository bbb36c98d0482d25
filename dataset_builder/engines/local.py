"""The engine `local`: processes on this machine, a file per video (decision record 0005 says why without ranks)."""

from tqdm import tqdm

from dataset_builder.engines.queued import refuse_beside_jobs
from dataset_builder.engines.work import Work, num_processors
from dataset_builder.engines.workers import run_jobs


def run_local(work: Work) -> str:
    """Make the missing outcomes on this machine.

    Raises:
        ValueError, WriteError: if a tool cannot be loaded, or the disk is full.
        BuildStopped: if a worker process was killed, or jobs of another build are waiting or running.
    """
    refuse_beside_jobs(work)
    jobs = [(work.sources[index], work.outcomes.path(work.keys[index])) for index in work.missing()]
    if not jobs:
        return ""
    steps = run_jobs(jobs, work.recipe, work.workers or num_processors())
    total, done = len(work.sources), len(work.sources) - len(jobs)
    for _ in tqdm(steps, total=total, initial=done, desc="videos", unit="video", disable=not work.progress):
        pass
    return ""
