"""A saved folder carries its code: it loads, generates and saves again without this project on the path."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from modeling_cosmo import CosmoForConditionalGeneration
from tests.modeling_cosmo.tiny import open_gates


AUTO_MAP = {
    "AutoConfig": "configuration_cosmo.CosmoConfig",
    "AutoModel": "modeling_cosmo.CosmoModel",
    "AutoModelForImageTextToText": "modeling_cosmo.CosmoForConditionalGeneration",
}
# Run with `python -I -S`: no working folder, no environment variables and no .pth files (by which an editable
# installation is found), so that only site-packages itself is on the path.
START = """
import sys
packages, *arguments = sys.argv[1:]
sys.path.append(packages)
try:
    import modeling_cosmo
    raise SystemExit("the project can be imported: this would prove nothing")
except ImportError:
    sys.modules["av"] = None  # neither PyAV nor anything else that a video needs
known = {"trust_remote_code": True}
"""
LOAD = """
import numpy as np
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
frames = np.arange(3 * 3 * 8 * 8, dtype=np.uint8).reshape(3, 3, 8, 8)
for folder, again in zip(arguments, arguments[1:]):
    config = AutoConfig.from_pretrained(folder, **known)
    processor = AutoProcessor.from_pretrained(folder, **known)
    model = AutoModelForImageTextToText.from_pretrained(folder, **known)
    base = AutoModel.from_pretrained(folder, **known)
    fresh = AutoModelForImageTextToText.from_config(config, **known)
    inputs = processor(text=["<visual>a red"], videos=[[frames]], return_tensors="pt")
    print([type(part).__name__ for part in (config, processor, model, base, fresh)])
    print(model.generate(**inputs, max_new_tokens=4, eos_token_id=None).tolist())
    model.save_pretrained(again)
    processor.save_pretrained(again)
"""
PIPELINE = """
import json
import numpy as np
from PIL import Image
from transformers import pipeline
folder, = arguments
picture = Image.fromarray(np.arange(9 * 7 * 3, dtype=np.uint8).reshape(9, 7, 3))
pipe = pipeline("image-text-to-text", model=folder, **known)
plain = pipe(text="<visual>a red", images=picture, max_new_tokens=4, return_full_text=False)
chat = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "a red"}]}]
talk = pipe(text=chat, max_new_tokens=4)
print(json.dumps([type(pipe.model).__module__, plain[0]["generated_text"], talk[0]["generated_text"][-1]]))
"""


@pytest.fixture
def run(tmp_path):
    """Run a script that cannot find the project, and return the lines that it prints."""
    packages = Path(sysconfig.get_path("purelib"))
    if (packages / "modeling_cosmo").is_dir():
        pytest.skip(f"the project itself is installed in {packages}, not as an editable installation")

    def run_script(code, *arguments):
        script = tmp_path / "script.py"
        script.write_text(START + code)
        environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(script), str(packages), *map(str, arguments)],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()

    return run_script


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_saved_folder_runs_without_the_project_and_keeps_its_code(model, processor, tmp_path, run):
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    save(first, open_gates(model), processor)
    types, ids, types_again, ids_again = run(LOAD, first, second, third)
    assert types == types_again
    assert types == str(["CosmoConfig", "CosmoProcessor", *["CosmoForConditionalGeneration", "CosmoModel"] * 2][:-1])
    assert ids == ids_again  # a folder saved after such a load is as complete
    for folder in (second, third):
        assert {path.name for path in folder.iterdir()} == {path.name for path in first.iterdir()}
        assert json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
    assert not any("convert" in path.name or path.name == "__init__.py" for path in first.iterdir())


def test_the_pipeline_writes_text_without_the_project(model, processor, tmp_path, run):
    from PIL import Image

    folder = save(tmp_path / "model", open_gates(model), processor)
    picture = Image.frombytes("RGB", (7, 9), bytes(range(9 * 7 * 3)))
    module, plain, answer = json.loads(run(PIPELINE, folder)[-1])
    assert module.startswith("transformers_modules.")
    inputs = processor(text="<visual>a red", images=[picture])
    length = inputs["input_ids"].shape[1]
    assert plain == processor.decode(model.generate(**inputs, max_new_tokens=4)[0, length:], skip_special_tokens=True)
    chat = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "a red"}]}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    length = inputs["input_ids"].shape[1]
    expect = processor.decode(model.generate(**inputs, max_new_tokens=4)[0, length:], skip_special_tokens=True)
    assert answer == {"role": "assistant", "content": expect}


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_second_save_leaves_nothing_stale(model, processor, tmp_path):
    """Whole after shards, shards after whole, fewer shards after more; code that no longer exists is removed."""
    folder = save(tmp_path / "model", model, processor)
    whole = names(folder)
    (folder / "former_cosmo.py").write_text("from .tokens_cosmo import VISUAL\n")
    (folder / "own_notes.py").write_text("")
    for size in ("20KB", "50KB", "1GB", "20KB"):
        with torch.no_grad():
            model.model.resampler.latents.add_(1.0)
        model.save_pretrained(folder, max_shard_size=size)
        shards = {name for name in names(folder) if name.startswith("model-")}
        index = folder / "model.safetensors.index.json"
        if size == "1GB":
            assert names(folder) == whole | {"own_notes.py"}
        else:
            assert names(folder) - shards == whole - {"model.safetensors"} | {"own_notes.py", index.name}
            assert shards == set(json.loads(index.read_text())["weight_map"].values())
        loaded = CosmoForConditionalGeneration.from_pretrained(folder)
        assert torch.equal(loaded.model.resampler.latents, model.model.resampler.latents)


def test_saving_again_over_what_a_killed_save_left(model, processor, tmp_path):
    """Also next to a tokenizer with its own code, whose entry is a pair."""
    folder = save(tmp_path / "model", model, processor)
    whole = names(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight')
    (folder / "former_cosmo.py").write_text("")
    (folder / "processor_config.json").write_text("")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    save(folder, model, processor)
    assert names(folder) == whole


def test_saving_the_model_alone_keeps_the_code_of_the_processor(model, processor, tmp_path):
    folder = save(tmp_path / "model", model, processor)
    before = names(folder)
    model.save_pretrained(folder)
    assert names(folder) == before
    processor.save_pretrained(folder)
    assert names(folder) == before
