"""Folders that could be published: small, but real enough to pass every check."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.hub.loopback_hub import TOKEN, LoopbackHub, running_hub


ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with running_hub() as server:
        yield server


@pytest.fixture
def in_hub_process(hub: LoopbackHub, tmp_path: Path) -> Callable[..., str]:
    """Run Python code in a fresh process that uses the loopback hub as the Hub, and return its output."""

    def run(code: str, *arguments: str, project: bool = False, token: str | None = TOKEN) -> str:
        home = tmp_path / "hf_home"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **({"HF_TOKEN": token} if token else {}),
            **({"PYTHONPATH": str(ROOT)} if project else {}),
        }
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        return result.stdout

    return run


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model folder as written by saving: config with auto_map, weights, code, card."""
    folder = tmp_path / "model"
    folder.mkdir()
    auto_map = {
        "AutoConfig": "configuration_cosmo.CosmoConfig",
        "AutoModelForImageTextToText": "modeling_cosmo.CosmoForConditionalGeneration",
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "cosmo", "auto_map": auto_map}))
    (folder / "configuration_cosmo.py").write_text("class CosmoConfig: ...\n")
    (folder / "modeling_cosmo.py").write_text("from .layers_cosmo import Layer\n")
    (folder / "layers_cosmo.py").write_text("class Layer: ...\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    save_file({"a": torch.arange(21.0).reshape(3, 7)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def space_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "app.py").write_text("print('hello')\n")
    (folder / "requirements.txt").write_text("gradio\n")
    (folder / "README.md").write_text("---\ntitle: T\nsdk: gradio\napp_file: app.py\n---\n# A Space\n")
    return folder


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """Two splits of Parquet shards, with a card that lists them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    for split, rows in {"train": 5, "test": 3}.items():
        table = pa.table({"video_id": [f"{split}-{row}" for row in range(rows)], "duration_s": [1.5] * rows})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: data/train-*.parquet\n"
        "  - split: test\n    path: data/test-*.parquet\n---\n# A corpus\n"
    )
    return folder
