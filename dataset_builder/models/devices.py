"""Choose the device that a worker's models run on: with several GPUs, the workers take turns."""

import multiprocessing
import re

import torch


def worker_device() -> torch.device:
    """The visible GPU for this worker process, by the worker's number; the CPU if there is none.

    Slurm and Ray let each worker see only its own GPU, which is then the first.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.device("cuda", worker_number() % count) if count else torch.device("cpu")


def worker_number() -> int:
    """The number in the name of a pool's worker, from 0; also 0 in any other process."""
    number = re.search(r"-(\d+)$", multiprocessing.current_process().name)
    return int(number[1]) - 1 if number else 0


def compute_dtype(device: torch.device) -> torch.dtype:
    """The dtype of generating models: float32 on a CPU, bfloat16 on a GPU."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16
