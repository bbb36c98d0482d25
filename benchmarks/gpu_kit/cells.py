"""A section is a list of cells; a cell measures one row, or says in one line why it could not."""

import gc
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_kit.shapes import Shape
from benchmarks.table import Row


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every section is given."""

    shape: Shape
    device: torch.device
    deadline: float
    """By `time.monotonic`: no cell begins after it, and loops that could go on stop."""
    folder: Path
    """For files of the section's own."""

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    def time_is_up(self) -> bool:
        """Whether nothing new may begin."""
        return self.seconds_left() <= 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a cell found."""

    value: float
    detail: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Numbers behind it, for machines to read."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row to be: its name and goal are known before anything is measured."""

    name: str
    measure: Callable[[], Measured]
    goal: str = ""
    unit: str = "x"
    needs_s: float = 0.0
    """Seconds that it takes on a GPU at the least, where that is long: with less left it does not begin."""


def run_cells(cells: Iterable[Cell], setup: Setup, keep: Callable[[Row, Mapping[str, Any]], None]) -> None:
    """Measure one cell after the other and hand each row on at once.

    A cell that fails, or that the memory is too small for, leaves a row that says so, and the next one begins.

    Raises:
        torch.AcceleratorError: after a row that says so: no later call on this device would work in this process.
    """
    for cell in cells:
        started = time.monotonic()
        missing, figures = "", {}
        found: Measured | None = None
        fatal: Exception | None = None
        needs_s = cell.needs_s if setup.device.type == "cuda" else 0.0
        if setup.seconds_left() <= needs_s:
            missing = "no time left" + (f": it takes at least {needs_s:.0f} s" if needs_s else "")
        else:
            try:
                found = cell.measure()
            except torch.OutOfMemoryError as error:
                missing = describe_shortage(error)
            except Exception as error:  # the row carries what went wrong; the other cells are worth their time
                missing = f"failed: {type(error).__name__}: {first_line(error)}"
                fatal = error if isinstance(error, torch.AcceleratorError) else None
        if found is not None:
            figures = {**found.figures, "seconds": round(time.monotonic() - started, 2)}
        row = Row(
            name=cell.name, value=found.value if found else None, goal=cell.goal, unit=cell.unit,
            detail=found.detail if found else "", missing=missing,
        )  # fmt: skip
        keep(row, figures)
        if fatal:
            raise fatal
        found = None
        free_memory(setup.device)


def free_memory(device: torch.device) -> None:
    """Give back what the last cell held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """The first line of a message, cut where it is very long."""
    return (str(error).strip().splitlines() or [""])[0][:200]


def describe_shortage(error: BaseException) -> str:
    """How much memory was missing, from torch's own message."""
    text = str(error)
    wanted = re.search(r"Tried to allocate ([\d.]+) (\wiB)", text)
    free = re.search(r"of which ([\d.]+) (\wiB) is free", text)
    total = re.search(r"total capacity of ([\d.]+ \wiB)", text)
    if not wanted or not free:
        return f"too little memory: {first_line(error)}"
    lacking = _bytes(*wanted.groups()) - _bytes(*free.groups())
    of_all = f" of {total[1]}" if total else ""
    return f"too little memory: {max(lacking, 0) / 2**30:.2f} GiB more than the {' '.join(free.groups())} free{of_all}"


def _bytes(number: str, unit: str) -> float:
    return float(number) * 2.0 ** {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[unit]


def row_to_json(section: str, machine: str, row: Row, figures: Mapping[str, Any]) -> str:
    """One line of results.jsonl."""
    return json.dumps({"section": section, "machine": machine, **asdict(row), "figures": dict(figures)})


def median(values: Iterable[float]) -> float:
    """The middle one, the upper of two."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def num_processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
