"""Stops another process at a chosen file, so that a test kills it there and not wherever a poll found it.

A test that watches a folder and kills what fills it is a race: on a slow day the other process has ended before the
test looks again. Here the other process waits, at the moment of renaming a file into place, until it is killed.
"""

import json
import os
import subprocess
import time
from pathlib import Path


# Python imports `sitecustomize` at its start, and tells audit hooks of every rename before it is done.
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
    """The first process that is about to rename a file to a name that matches waits there, for ever.

    Args:
        folder: a new folder for what this needs on disk.
    """

    def __init__(self, folder: Path):
        folder.mkdir()
        self._folder = folder
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)

    @property
    def python_path(self) -> str:
        """What `PYTHONPATH` of the processes must be; the project is on it."""
        return f"{self._folder}{os.pathsep}{Path(__file__).parents[1]}"

    def arm(self, pattern: str, after: int = 0) -> None:
        """Pause at a name that the pattern is found in, once the same process has made `after` others of them."""
        armed = self._folder / "armed.json"
        aside = armed.with_suffix(".new")
        aside.write_text(json.dumps([pattern, after]))
        aside.replace(armed)

    def disarm(self) -> None:
        (self._folder / "armed.json").unlink()

    def wait(self, process: subprocess.Popen[str] | None = None, seconds: float = 200) -> int:
        """The id of the process that waits; where `process` ends before, what it said is the failure."""
        paused, deadline = self._folder / "paused", time.monotonic() + seconds
        while not (paused.is_file() and paused.read_text()):
            if process is not None and process.poll() is not None:
                raise AssertionError(f"ended with {process.returncode} before it was there")
            assert time.monotonic() < deadline, f"nothing was there after {seconds} s"
            time.sleep(0.01)
        return int(paused.read_text())
