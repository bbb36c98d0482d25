"""What only a GPU can show, in one command: right results, speed of training and generation, a real run.

Needs no network, no weights and no corpus. Each section runs in a process of its own with a time limit, and adds each
row to DIR/results.jsonl as soon as it is measured: a run that is cut off leaves what it had.

    python -m benchmarks.gpu --output DIR [--sections right,training] [--minutes 7]    measure on the first GPU
    python -m benchmarks.gpu --output DIR --shape tiny --device cpu                     try the kit itself
    python -m benchmarks.gpu --output DIR --write                                       put DIR's rows into the page

`--write` measures nothing, so that results can come from another machine. Without DIR/results.jsonl the page says
"not measured" in every row. In a copy of the code without git, COSMO_REVISION names its commit.

Exit status: 0 when every row was measured or says why not (memory, time); 1 when one failed, or a result is not
right; 2 for a wrong call.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from benchmarks import flops
from benchmarks.gpu_kit.cells import Cell, Setup, row_to_json, run_cells
from benchmarks.gpu_kit.shapes import SHAPES
from benchmarks.table import Row, code_revision, replace_section, table


SECTIONS = {  # name -> (module, title, share of the minutes)
    "right": ("right", "Right", 45),
    "training": ("training", "Training step", 130),
    "generation": ("generation", "Generation", 85),
    "input": ("feeding", "Input", 25),
    "run": ("real_run", "A real run", 95),
    "profile": ("hot_spots", "Where the time goes", 30),
}
ROOT = Path(__file__).parents[1]
GRACE_S = {"cuda": 20.0, "cpu": 60.0}
"""A cell that began before the end of its section's time may go on for so long; then the section is stopped."""
STOPPED = "stopped"
FAILED = ("failed:", STOPPED, "the section ended")
"""Beginnings of reasons that make the exit status 1."""
HEAVIEST = "heaviest"
FIXTURES = "outputs of "
"""Begins the rows that are named after the fixtures found."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or write the page; see the module."""
    options = parse(arguments)
    try:
        if options.write:
            write_page(options)
            return 0
        sections = check(options)
        if options.run:
            run_section(options, *options.run)
            return 0
        return run_all(options, sections)
    except ValueError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="results.jsonl and logs")
    parser.add_argument("--shape", default="cosmo-2.1b", metavar="NAME", help=f"one of {', '.join(SHAPES)}")
    parser.add_argument("--sections", default=",".join(SECTIONS), metavar="A,B", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--minutes", type=float, default=7.0, help="for all sections together")
    parser.add_argument("--device", default="cuda", metavar="cuda|cpu")
    parser.add_argument("--write", action="store_true", help="put the rows of DIR into docs/benchmarks.md")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)  # what `run_process` starts
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> list[str]:
    """The sections asked for.

    Raises:
        ValueError: in one line, for a section, shape or device that is not there, or fixtures that are not.
    """
    if options.shape not in SHAPES:
        raise ValueError(f"--shape {options.shape}: expected one of {', '.join(SHAPES)}")
    sections = [name.strip() for name in options.sections.split(",")]
    for name in sections:
        if name not in SECTIONS:
            raise ValueError(f"--sections {name}: expected some of {', '.join(SECTIONS)}")
    if options.device not in ("cuda", "cpu"):
        raise ValueError(f"--device {options.device}: expected cuda or cpu")
    if not options.minutes > 0:
        raise ValueError(f"--minutes {options.minutes}: expected more than 0")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"torch {torch.__version__} sees no CUDA device; --device cpu --shape tiny tries the kit itself"
        )
    for name in sections:
        try:
            importlib.import_module(f"benchmarks.gpu_kit.{SECTIONS[name][0]}")
        except ImportError as error:
            raise ValueError(
                f"section {name} cannot be loaded: {error}; `pip install -e .[all]`, or leave it out"
            ) from None
    if "right" in sections:
        importlib.import_module("benchmarks.gpu_kit.right").fixtures()
    return sections


def run_all(options: argparse.Namespace, sections: list[str]) -> int:
    """One process after the other; what a section leaves of its time goes to those that follow."""
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / "results.jsonl"
    end_of_line(results)
    machine = describe_machine(options)
    print(machine, flush=True)
    started_s = time.time() - psutil.Process().create_time()  # ago: importing torch is part of the minutes
    deadline = time.monotonic() + 60 * options.minutes - started_s
    kept_before = len(read_rows(results))
    for index, name in enumerate(sections):
        shares = [SECTIONS[other][2] for other in sections[index:]]
        seconds = max(0.0, deadline - time.monotonic()) * shares[0] / sum(shares)
        run_apart(options, name, seconds, results, machine)
    rows = read_rows(results)[kept_before:]
    failed = [row for row in rows if row["missing"].startswith(FAILED)]
    wrong = [row for row in rows if row["section"] == "right" and not to_row(row).reached]
    for row in failed + [row for row in wrong if row not in failed]:
        print(f"{row['section']}: {row['name']}: {row['missing'] or row['value']}", file=sys.stderr)
    return 1 if failed or wrong else 0


def run_apart(options: argparse.Namespace, name: str, seconds: float, results: Path, machine: str) -> None:
    """One section in a process of its own.

    If the process dies, another one goes on; a cell at which two die, or one at its first, gets a row that says so.
    """
    print(f"\n{SECTIONS[name][1]} ({seconds:.0f} s)", flush=True)
    deadline, before = time.monotonic() + seconds, len(read_rows(results))
    cells = list_cells(name, options)
    while (done := len(read_rows(results)) - before) < len(cells):
        ended = run_process(options, name, deadline, done)
        end_of_line(results)
        if not ended:
            return
        now = len(read_rows(results)) - before
        out_of_time = ended.startswith(STOPPED)
        lost = cells[now:] if out_of_time else cells[now : now + 1] if now == done else []
        for cell in lost:
            row = Row(name=cell.name, value=None, goal=cell.goal, unit=cell.unit, missing=ended)
            append(results, row_to_json(name, machine, row, {}))
            print(row.line(), flush=True)


def run_process(options: argparse.Namespace, name: str, deadline: float, skip: int) -> str:
    """The cells of a section behind the first `skip`; returns why the process did not come to its end, or nothing."""
    command = [
        sys.executable, "-m", "benchmarks.gpu", "--output", str(options.output), "--shape", options.shape,
        "--device", options.device, "--sections", name, "--run", name, f"{deadline:.1f}", str(skip),
    ]  # fmt: skip
    environment = dict(os.environ)
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    log, grace_s = options.output / f"{name}.log", GRACE_S[options.device]
    with log.open("a" if skip else "w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors, start_new_session=True)
        try:
            status = process.wait(timeout=max(0.0, deadline - time.monotonic()) + grace_s)
        except subprocess.TimeoutExpired:
            return f"{STOPPED}: not done {grace_s:.0f} s after its time"
        finally:
            stop_session(process)
    return f"the section ended with exit status {status}: see {log.name}" if status else ""


def stop_session(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_section(options: argparse.Namespace, name: str, deadline: str, skip: str) -> None:
    """Measure the cells of a section behind the first `skip`, here, up to a deadline by the monotonic clock."""
    results, machine = options.output / "results.jsonl", describe_machine(options)
    setup = make_setup(options, name, float(deadline))
    shutil.rmtree(setup.folder, ignore_errors=True)
    setup.folder.mkdir(parents=True)

    def keep(row: Row, figures: Mapping[str, Any]) -> None:
        append(results, row_to_json(name, machine, row, figures))
        print(row.line(), flush=True)

    run_cells(section_cells(name, setup)[int(skip) :], setup, keep)
    shutil.rmtree(setup.folder, ignore_errors=True)


def make_setup(options: argparse.Namespace, name: str, deadline: float) -> Setup:
    """What a section is given."""
    return Setup(
        shape=SHAPES[options.shape], device=torch.device(options.device), deadline=deadline,
        folder=options.output.absolute() / f"work-{name}",
    )  # fmt: skip


def section_cells(name: str, setup: Setup) -> list[Cell]:
    """The cells of a section, none of them measured."""
    found: list[Cell] = importlib.import_module(f"benchmarks.gpu_kit.{SECTIONS[name][0]}").cells(setup)
    return found


def list_cells(name: str, options: argparse.Namespace) -> list[Cell]:
    """The same for their names and goals alone."""
    return section_cells(name, make_setup(options, name, 0))


def describe_machine(options: argparse.Namespace) -> str:
    """Card, driver, versions, code and shape: rows that share all of it can stand in one table."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if options.device == "cuda":
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=False,
        ).stdout.split() if shutil.which("nvidia-smi") else []  # fmt: skip
        place = f"{torch.cuda.get_device_name()}, driver {asked[0] if asked else 'unknown'}, CUDA {torch.version.cuda}"
    else:
        place = "CPU"
    return f"{options.shape} on {place}, {versions}, code {code_revision()}"


def append(path: Path, line: str) -> None:
    """One line in one write."""
    with path.open("a") as file:
        file.write(f"{line}\n")


def end_of_line(path: Path) -> None:
    """Close a line that a killed process left open, so that the next one stands alone."""
    if path.is_file() and (text := path.read_bytes()) and not text.endswith(b"\n"):
        append(path, "")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows in order; lines that are not whole are passed over."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def to_row(record: Mapping[str, Any]) -> Row:
    """A line of results.jsonl as the row that it was."""
    return Row(**{field.name: record[field.name] for field in fields(Row)})


def write_page(options: argparse.Namespace) -> None:
    """The section of docs/benchmarks.md: the newest row of each name, of the machine and code measured last.

    Raises:
        ValueError: if the output folder is not there, or the shape is unknown.
    """
    if options.shape not in SHAPES:
        raise ValueError(f"--shape {options.shape}: expected one of {', '.join(SHAPES)}")
    if not options.output.is_dir():
        raise ValueError(f"--output {options.output}: there is no such folder")
    records = read_rows(options.output / "results.jsonl")
    machine = records[-1]["machine"] if records else ""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        key = (record["section"], record["name"])
        measured_before = newest.get(key, {}).get("value") is not None
        if record["machine"] == machine and (record["value"] is not None or not measured_before):
            newest[key] = record
    replace_section("GPU", page(options, machine, newest))


def page(options: argparse.Namespace, machine: str, newest: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """A table for each section, the rule for operations, and the heaviest kernels."""
    where = f"measured: {machine}" if machine else "nothing is measured yet: no GPU was at hand"
    parts = [
        f"`python -m benchmarks.gpu --output DIR` measures and `--write` puts the rows here; {where}.",
        "Right results, speed and a real run on one GPU, from weights drawn on it; ratios are taken in one process. "
        "Frozen towers in bfloat16, what trains in float32 under autocast, the optimizer's step included; compiled "
        "training compiles each layer by itself. A step inside `generate` includes what the library does between two "
        "passes, on both sides. Batches are not padded; real ones take kernels with masks. The sections' modules in "
        "`benchmarks/gpu_kit` say what the rows mean.",
        f"**Operations.** {rule_of_operations()}",
    ]
    kernels = []
    for name, (_, title, _) in SECTIONS.items():
        rows = []
        planned = list_cells(name, options)
        unplanned = [record for key, record in newest.items() if key[0] == name and key[1] not in names_of(planned)]
        if unplanned:  # fixtures that are elsewhere than here: they take the place of these
            planned = [cell for cell in planned if not cell.name.startswith(FIXTURES)]
            rows = [to_row(record) for record in unplanned]
        for cell in planned:
            record = newest.get((name, cell.name))
            rows.append(
                to_row(record)
                if record
                else Row(name=cell.name, value=None, goal=cell.goal, unit=cell.unit, missing="no run yet")
            )
            if record and HEAVIEST in record["figures"]:
                kernels.append((cell.name.partition(":")[0], record["figures"][HEAVIEST]))
        parts.append(f"### {title}\n\n{table(rows)}")
    parts += [f"Heaviest kernels, {name}:\n\n{kernel_table(rows)}" for name, rows in kernels]
    return "\n\n".join(parts)


def names_of(cells: Sequence[Cell]) -> set[str]:
    """Names of cells."""
    return {cell.name for cell in cells}


def rule_of_operations() -> str:
    """The rule from the module that counts, as one paragraph of Markdown and a list."""
    paragraphs = (flops.__doc__ or "").split("\n\n")[1:]
    return "\n\n".join(re.sub(r"\n(?!- )", " ", paragraph.strip()) for paragraph in paragraphs)


def kernel_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Kernels as a Markdown table."""
    head = ["| kernel | share | ms a step | calls a step |", "| --- | --- | --- | --- |"]
    lines = [
        f"| `{name}` | {100 * row['share']:.1f} % | {row['ms']:.3f} | {row['calls']:.0f} |"
        for row in rows
        if (name := row["name"][:90].replace("|", "/"))
    ]
    return "\n".join([*head, *lines])


if __name__ == "__main__":
    sys.exit(main())
