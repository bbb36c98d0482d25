"""Stop another process at a chosen file, so that a test kills it exactly there.

A test that polls a folder and kills the process that fills it is a race: on a slow day the other process has ended
before the test looks again. Here the other process, about to rename a file into place, waits until it is killed.
"""

import json
import os
import subprocess
import time
from pathlib import Path


# Python imports `sitecustomize` when it starts, and calls audit hooks before every rename.
SITECUSTOMIZE = """
import json, os, re, sys, time

FOLDER = os.path.dirname(os.path.abspath(__file__))
passed = 0

def pause(event, arguments):
    global passed
    if event != "os.rename":
        return
    try:
        with open(os.path.join(FOLDER, "armed.json")) as file:
            pattern, renames = json.load(file)
    except FileNotFoundError:
        return
    if not re.search(pattern, os.fsdecode(arguments[1])):
        return
    passed += 1
    if passed <= renames:
        return
    try:
        with open(os.path.join(FOLDER, "paused"), "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    while True:
        time.sleep(60)

sys.addaudithook(pause)
"""


class PausePoint:
    """Point at which the first process that is about to rename a file to a matching name waits forever.

    Args:
        folder: a new folder for the files that this needs.
    """

    def __init__(self, folder: Path):
        folder.mkdir()
        self._folder = folder
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)

    @property
    def python_path(self) -> str:
        """`PYTHONPATH` for the processes; it includes the project."""
        return f"{self._folder}{os.pathsep}{Path(__file__).parents[1]}"

    def arm(self, pattern: str, after: int = 0) -> None:
        """Pause at a name in which the pattern is found, after the same process has made `after` others."""
        armed = self._folder / "armed.json"
        aside = armed.with_suffix(".new")
        aside.write_text(json.dumps([pattern, after]))
        aside.replace(armed)

    def disarm(self) -> None:
        (self._folder / "armed.json").unlink()

    def wait(self, process: subprocess.Popen[str] | None = None, seconds: float = 200) -> int:
        """Wait for a process to pause and return its id; fail with the output of `process` if that ends first."""
        paused, deadline = self._folder / "paused", time.monotonic() + seconds
        while not (paused.is_file() and paused.read_text()):
            if process is not None and process.poll() is not None:
                raise AssertionError(f"ended with {process.returncode} before it was there")
            assert time.monotonic() < deadline, f"nothing was there after {seconds} s"
            time.sleep(0.01)
        return int(paused.read_text())
