"""The Makefile's set-up runs once, again only when something changed, and from the start after a kill.

A script that records its calls replaces Python, so that nothing is installed here.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
FAKE_PYTHON = """#!/bin/sh
# Notes the call; `-m venv` copies this script to where an environment has its Python.
[ "$1" = "-c" ] && { [ -n "$TOO_OLD" ] && exit 1; exit 0; }
[ "$3" = "--version" ] && exit 0
echo "$*" >> "$LOG"
case "$2" in
  venv) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  pip) [ -n "$HANG" ] && { touch "$LOG.hangs"; exec sleep 60; }; exit "${PIP_EXIT:-0}" ;;
esac
"""
# make may run these tests, and its options would reach the inner make.
OUTSIDE = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")}
VENV = "-m venv --clear .venv"
PIP = "-m pip install -c constraints.txt -e .[all]"


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    folder = tmp_path / "a clone"  # a path with a space
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    python = folder / "fake-python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return folder


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["make", "install", "PYTHON=./fake-python"],
        cwd=folder,
        env={**OUTSIDE, "LOG": str(folder / "calls.txt"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def install(folder: Path, expected_exit: int = 0, **environment: str) -> tuple[list[str], str]:
    """Run `make install`; return the calls of Python that it made, and its stderr."""
    (folder / "calls.txt").write_text("")
    process = start(folder, **environment)
    _, errors = process.communicate(timeout=200)
    assert (process.returncode != 0) == (expected_exit != 0), errors
    return (folder / "calls.txt").read_text().splitlines(), errors


def test_a_second_run_installs_nothing(checkout):
    assert install(checkout)[0] == [VENV, PIP]
    assert install(checkout)[0] == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_is_installed_into_the_same_environment(checkout, name):
    install(checkout)
    (checkout / name).touch()
    assert install(checkout)[0] == [], "the content counts, not the time"
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert install(checkout)[0] == [PIP]
    assert install(checkout)[0] == []


def test_a_moved_clone_is_installed_again(checkout):
    install(checkout)
    moved = checkout.with_name("elsewhere")
    checkout.rename(moved)
    assert install(moved)[0] == [PIP], "an editable installation points to its folder"


def test_a_killed_installation_starts_from_an_empty_environment(checkout):
    process = start(checkout, HANG="1")
    deadline = time.monotonic() + 200
    while not (checkout / "calls.txt.hangs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=200)
    assert install(checkout)[0] == [VENV, PIP]
    assert install(checkout)[0] == []


def test_a_failed_installation_fails_and_is_tried_again(checkout):
    assert install(checkout, expected_exit=2, PIP_EXIT="7")[0] == [VENV, PIP]
    assert install(checkout)[0] == [PIP], "pip left in order: what it has installed stays"


def test_an_old_python_is_named(checkout):
    calls, errors = install(checkout, expected_exit=2, TOO_OLD="1")
    assert calls == []
    assert "CosMo needs Python 3.11 or newer, './fake-python' is not" in errors


@pytest.mark.parametrize(
    ("quick", "expected"), [("1", ["quickstart", "--quick"]), ("", ["quickstart"]), ("0", ["quickstart"])]
)
def test_quick_is_read_from_the_environment(checkout, quick, expected):
    plan = subprocess.run(
        ["make", "-n", "--no-print-directory", "quickstart"],
        cwd=checkout,
        env={**OUTSIDE, "QUICK": quick},
        capture_output=True,
        text=True,
    )
    assert plan.returncode == 0
    assert plan.stdout.split("/cosmo ", maxsplit=1)[1].split() == expected


def test_every_verb_of_the_readme_is_there():
    """Every `make VERB` in README and CONTRIBUTING exists, and all phony targets are declared."""
    import re

    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)[1].split())
    assert phony == targets
    for page in ("README.md", "CONTRIBUTING.md"):
        if (ROOT / page).exists():
            named = set(re.findall(r"\bmake ([a-z-]+)`", (ROOT / page).read_text()))
            assert named <= targets, f"{page} names {named - targets}"
