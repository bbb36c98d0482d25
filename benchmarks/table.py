"""Results of benchmarks as rows, and their section of docs/benchmarks.md."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured figure and what it should be."""

    name: str
    """What was measured."""
    value: float | None
    """The figure; `None` if it could not be measured."""
    goal: str = ""
    """Value that it must reach, such as `<= 1.20`; empty if the figure is only reported."""
    unit: str = "x"
    """`x` for a ratio."""
    detail: str = ""
    """The times behind a ratio, for example."""
    missing: str = ""
    """Why there is no figure."""

    @property
    def reached(self) -> bool:
        """Whether the goal is reached; true if there is none."""
        if not self.goal:
            return True
        if self.value is None:
            return False
        relation, number = self.goal.split()
        return self.value <= float(number) if relation == "<=" else self.value >= float(number)

    def line(self) -> str:
        """The row as a line of a Markdown table."""
        if self.value is None:
            return f"| {self.name} | not measured | {self.goal} | | {self.missing} |"
        mark = "" if not self.goal else "yes" if self.reached else "**no**"
        return f"| {self.name} | {self.value:.3g} {self.unit} | {self.goal} | {mark} | {self.detail} |"


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    head = ["| measured | result | goal | reached | behind it |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *(row.line() for row in rows)])


def machine() -> str:
    """Processor, cores, and the versions that speed depends on."""
    try:
        processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        name = processor[1] if processor else platform.processor()
    except OSError:
        name = platform.processor()
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
    return f"{name}, Python {platform.python_version()}, {packages}"


def code_revision() -> str:
    """Short name of the commit that is checked out; in a copy without git, what COSMO_REVISION says."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=PAGE.parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        asked = ""
    return asked or os.environ.get("COSMO_REVISION", "unknown")


def write_section(title: str, command: str, notes: str, rows: list[Row]) -> None:
    """Replace or append the section of this title in docs/benchmarks.md, with date, code revision and machine."""
    day = datetime.now(UTC).date().isoformat()
    replace_section(title, f"`{command}` on {day}, code {code_revision()}: {machine()}.\n\n{notes}\n\n{table(rows)}")


def replace_section(title: str, body: str) -> None:
    """Replace the section of this title in docs/benchmarks.md, or append it."""
    section = f"## {title}\n\n{body}\n"
    page = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    page, known = pattern.subn(lambda _: f"{section}\n", page)
    if not known:
        page = f"{page.rstrip()}\n\n{section}"
    PAGE.write_text(f"{page.rstrip()}\n")
