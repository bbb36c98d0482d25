"""Files of a run besides its weights: config.yaml, environment.json, metrics.jsonl.

The first two are written aside and renamed, so a kill leaves the old file or the new one. metrics.jsonl is appended
to, so a kill may cut its last line short; the resumed run drops that line. Temporary files that a kill leaves are
deleted by `recover`, which training calls before it writes.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from dataset_builder.atomic import write_whole
from training.config import TrainingConfig, read_yaml


PACKAGES = ("cosmo-vlm", "torch", "transformers", "accelerate", "datasets", "safetensors", "numpy", "av")
MAY_CHANGE = frozenset({"logging_steps", "eval_steps", "save_steps", "save_total_limit", "preprocessing_num_workers"})


def check_same_run(output: Path, config: TrainingConfig) -> None:
    """Refuse a folder that another config began; keys in `MAY_CHANGE` may differ.

    Raises:
        ValueError: with the first key that differs.
    """
    path = output / "config.yaml"
    begun, wanted = read_yaml(str(path)) if path.is_file() else config.to_dict(), config.to_dict()
    for key in sorted({*begun, *wanted} - MAY_CHANGE):
        if begun.get(key) != wanted.get(key):
            found = f"{key}={begun.get(key)}, not {wanted.get(key)}"
            raise ValueError(f"{output} was started with {found}: choose another --output")


def check_same_data(environment_file: Path, data_revision: str) -> None:
    """Refuse to resume on different data; runs without a recorded revision pass.

    Raises:
        ValueError: with both revisions.
    """
    try:
        begun = json.loads(environment_file.read_text())["data_revision"]
    except (OSError, ValueError, KeyError):
        return
    if begun != data_revision:
        raise ValueError(
            f"{environment_file.parent} was started on another state of the corpus (train split {begun:.12}, "
            f"now {data_revision:.12}): choose another --output"
        )


def open_run(output: Path, config: TrainingConfig, data_revision: str, num_processes: int) -> None:
    """Create the folder if needed, and write config.yaml and environment.json.

    Raises:
        ValueError: if there are checkpoints of a run on different data.
    """
    output.mkdir(parents=True, exist_ok=True)
    if any((output / "checkpoints").glob("step-*")):
        check_same_data(output / "environment.json", data_revision)
    write_whole(output / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))
    found = environment(config.seed, data_revision) | {"num_processes": num_processes}
    write_whole(output / "environment.json", json.dumps(found, indent=2) + "\n")


def environment(seed: int, data_revision: str) -> dict[str, Any]:
    """Return what else the results depend on: code and data revisions, seed, command, versions."""
    return {
        "code_revision": code_revision(),
        "data_revision": data_revision,
        "seed": seed,
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def code_revision() -> str:
    """Return the commit of this checkout, plus `+changes` if files differ; outside a checkout, the version number."""
    here = Path(__file__).resolve().parents[1]
    git = lambda *words: subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout
    try:
        commit = git("rev-parse", "HEAD").strip() if (here / ".git").exists() else ""
        return commit + ("+changes" if commit and git("status", "--porcelain") else "") or (
            _version("cosmo-vlm") or ""
        )
    except (OSError, subprocess.CalledProcessError):
        return _version("cosmo-vlm") or ""


class MetricsLog:
    """Writer of metrics.jsonl, one line per logged step; a resumed run first drops the lines after its checkpoint."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        write_whole(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def _step_of(line: str) -> float:
    """Return the step of a metrics line; infinity for a line that a kill cut short."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return float("inf")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
