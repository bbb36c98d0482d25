"""An installed wheel holds all code and data of the packages and the command, but no tests."""

import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_cosmo", "dataset_builder", "training", "demo")
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Wheel of a copy of the packages, built with this environment's setuptools."""
    try:
        found = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        found = "0"
    if int(found.split(".")[0]) < 77:
        pytest.skip(f"building a wheel needs setuptools 77 or newer, found {found}")
    copy = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "LICENSE", "README.md", "cosmo_cli.py"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, copy / package, ignore=NOT_SHIPPED)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return zipfile.ZipFile(next((copy / "out").glob("*.whl")))


def test_the_wheel_holds_all_code_and_data(wheel):
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {"cosmo_cli.py"}
    for package in PACKAGES:
        files = (path for path in (ROOT / package).rglob("*") if path.is_file())
        names = (path.relative_to(ROOT) for path in files)
        expected |= {
            name.as_posix()
            for name in names
            if "__pycache__" not in name.parts and not any(part.startswith(".") for part in name.parts)
        }
    assert shipped == expected


def test_the_wheel_brings_the_command(wheel):
    [entry] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "cosmo = cosmo_cli:main" in wheel.read(entry).decode()


def test_the_space_asks_for_what_the_extra_declares():
    """The package's base dependencies apply to every extra; of these, the page needs only the progress bar."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {line for line in extras["demo"] + extras["model"] if not line.startswith("cosmo-vlm")}
    declared |= {line for line in project["dependencies"] if line.startswith("tqdm")}
    assert set((ROOT / "demo" / "requirements.txt").read_text().split()) == declared


def test_constraints_are_exact_and_within_the_ranges():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [line for name in ("model", "data", "train", "demo", "dev") for line in extras[name]]
    for requirement in map(Requirement, needed + project["dependencies"]):
        if requirement.name != "cosmo-vlm":
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is not None, f"constraints.txt lacks {requirement.name}"
            assert requirement.specifier.contains(version), f"{requirement} excludes the tested {version}"
