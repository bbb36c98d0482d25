"""Which device a worker's models run on: with several GPUs, each worker has its own."""

import multiprocessing
import re

import torch


def worker_device() -> torch.device:
    """The visible GPU whose turn it is, counted by the number of this worker process; the CPU where there is none.

    Slurm and Ray show each of their workers its own GPU alone, which is then the first.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.device("cuda", worker_number() % count) if count else torch.device("cpu")


def worker_number() -> int:
    """0 in a process that nobody started as a worker; workers of a pool count from 0 by their names."""
    number = re.search(r"-(\d+)$", multiprocessing.current_process().name)
    return int(number[1]) - 1 if number else 0


def compute_dtype(device: torch.device) -> torch.dtype:
    """What generating models compute in: float32 on a CPU, bfloat16 on a GPU."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16
