"""Run the pipeline over videos in worker processes; each loads its models once and writes one file per video.

torch and transformers, which take seconds to import, are imported only when a model is about to be loaded: the process
that only hands out jobs needs neither, so its workers start at once.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path

from dataset_builder.engines.outcome_file import save_outcome
from dataset_builder.errors import BuildStopped
from dataset_builder.inputs import SourceVideo
from dataset_builder.pipeline import VideoPipeline
from dataset_builder.recipe import Recipe


Job = tuple[SourceVideo, Path]
"""A video and the file that its outcome is written to."""
WAITING_PER_WORKER = 3  # submitted jobs: enough that no worker waits, without a million of them in memory


def run_jobs(jobs: Sequence[Job], recipe: Recipe, workers: int) -> Iterator[None]:
    """Process every video; yield once for each finished video.

    Args:
        jobs: the videos, and the files for their outcomes.
        recipe: the stages and their settings.
        workers: number of processes; 1 does the work in this process.

    Raises:
        ValueError, WriteError: if a tool cannot be loaded, or the disk is full.
        BuildStopped: if a worker process was killed; names the videos that the workers were processing.
    """
    if min(workers, len(jobs)) <= 1:
        yield from _run_here(jobs, recipe)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can deadlock
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (recipe,))
    waiting = iter(jobs)
    under_way = {pool.submit(_run_in_worker, job): job for job in islice(waiting, WAITING_PER_WORKER * workers)}
    try:
        while under_way:
            done, _ = wait_for(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                del under_way[future]
                yield
            under_way |= {pool.submit(_run_in_worker, job): job for job in islice(waiting, len(done))}
    except BrokenProcessPool as error:
        unfinished = [job for future, job in under_way.items() if not future.done() or future.exception()]
        names = ", ".join(source.name for source, _ in unfinished[:workers])  # jobs are taken in order
        where = f" at one of {names}" if names else ""
        raise BuildStopped(
            f"a worker process was killed (out of memory?){where}; run again to go on where it stopped"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_here(jobs: Sequence[Job], recipe: Recipe) -> Iterator[None]:
    with _one_thread(), quiet_loading():
        pipeline = VideoPipeline(recipe)
        for source, path in jobs:  # one by one, as in a worker: no video's record depends on other videos
            for draft in pipeline([source]):
                save_outcome(path, draft)
                yield


def forget_batch_shapes() -> None:
    """Keep this process's memory constant as the number of videos grows; only for processes that just build.

    oneDNN caches a primitive for every batch shape, up to 1024 of them, and videos come in all lengths. The cache
    fragments the memory between large blocks that are freed, and a worker grows by half over some hundred videos. 16
    entries serve the recurring shapes; without a cache, a build takes some 5 % longer. oneDNN reads the variable when
    it first computes.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one torch thread, as in a worker, so that the number of workers does not change a single bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' progress bars for loading weights, which would break up the build's own bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


_loaded: list[VideoPipeline | Exception] = []  # one entry per worker process: its models, loaded at its start


def _start_worker(recipe: Recipe) -> None:
    """Load the models; the first job raises a load error with its own type, rather than as a broken pool."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    forget_batch_shapes()
    import torch

    torch.set_num_threads(1)
    try:
        with quiet_loading():
            _loaded.append(VideoPipeline(recipe))
    except Exception as error:
        _loaded.append(error)


def _run_in_worker(job: Job) -> None:
    tool = _loaded[0]
    if isinstance(tool, Exception):
        raise tool
    for draft in tool([job[0]]):
        save_outcome(job[1], draft)


def _end_with_parent() -> None:
    """End this worker when its parent is killed; it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
