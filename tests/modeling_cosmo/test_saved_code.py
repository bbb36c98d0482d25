"""A saved folder carries its code: it loads where this project cannot be imported."""

import json
import os
import subprocess
import sys

import pytest

from tests.modeling_cosmo.tiny import open_gates


SCRIPT = """
import sys
import numpy as np
try:
    import modeling_cosmo
    raise SystemExit("the project is importable: this would prove nothing")
except ImportError:
    pass
sys.modules["av"] = None  # neither PyAV nor anything else that a video needs
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
known = {"trust_remote_code": True}
frames = np.arange(3 * 3 * 8 * 8, dtype=np.uint8).reshape(3, 3, 8, 8)
for folder, again in zip(sys.argv[1:], sys.argv[2:]):
    config = AutoConfig.from_pretrained(folder, **known)
    processor = AutoProcessor.from_pretrained(folder, **known)
    model = AutoModelForImageTextToText.from_pretrained(folder, **known)
    base = AutoModel.from_pretrained(folder, **known)
    inputs = processor(text=["<visual>a red"], videos=[[frames]], return_tensors="pt")
    print([type(part).__name__ for part in (config, processor, model, base)])
    print(model.generate(**inputs, max_new_tokens=4, eos_token_id=None).tolist())
    model.save_pretrained(again)
    processor.save_pretrained(again)
"""


def run(folders, tmp_path):
    (tmp_path / "empty").mkdir(exist_ok=True)
    (tmp_path / "load.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "load.py"), *map(str, folders)],
        cwd=tmp_path / "empty", env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if "the project is importable" in done.stderr:
        pytest.skip("the project is installed in this environment: the clean one is checked by the hub tests")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_a_saved_folder_runs_without_the_project_and_keeps_its_code(model, processor, tmp_path):
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    open_gates(model).save_pretrained(first)
    processor.save_pretrained(first)
    types, ids, types_again, ids_again = run([first, second, third], tmp_path)
    assert types == types_again == "['CosmoConfig', 'CosmoProcessor', 'CosmoForConditionalGeneration', 'CosmoModel']"
    assert ids == ids_again  # what such a load saved is as whole
    for folder in (second, third):
        assert {path.name for path in folder.iterdir()} == {path.name for path in first.iterdir()}
        assert json.loads((folder / "config.json").read_text())["auto_map"] == {
            "AutoConfig": "configuration_cosmo.CosmoConfig",
            "AutoModel": "modeling_cosmo.CosmoModel",
            "AutoModelForImageTextToText": "modeling_cosmo.CosmoForConditionalGeneration",
        }
    assert not any("convert" in path.name or path.name == "__init__.py" for path in first.iterdir())
