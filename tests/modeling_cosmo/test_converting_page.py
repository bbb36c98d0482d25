"""docs/converting.md: the options in its commands exist, its table matches the code, and its steps work."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

from cosmo_cli import app
from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from modeling_cosmo.convert_cosmo_checkpoint import main
from modeling_cosmo.presets_cosmo import PRESETS
from tests.modeling_cosmo.openflamingo import trained_state, write_towers


PAGE = (Path(__file__).parents[2] / "docs" / "converting.md").read_text()
BLOCK = re.findall(r"```sh\n(.+?)```", PAGE, re.DOTALL)[0].replace("\\\n", " ")
COMMANDS = [shlex.split(line) for line in BLOCK.splitlines() if line.startswith("cosmo convert")]


def options_of(command):
    return dict(zip(command[2::2], command[3::2], strict=True))


def test_options_exist_in_both_forms(capsys):
    assert len(COMMANDS) == 2
    of_cosmo = {name for parameter in get_command(app).commands["convert"].params for name in parameter.opts}
    with pytest.raises(SystemExit):
        main(["--help"])
    of_module = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"`(--[a-z-]+)", PAGE)) | {name for command in COMMANDS for name in options_of(command)}
    assert named <= of_cosmo
    assert named <= of_module
    assert of_cosmo - {"--help"} == of_module - {"--help"}


def test_presets_are_those_of_the_code():
    rows = re.findall(r"^\| `(\S+)` \| (\w+) \| (\S+) \| (.+) \|$", PAGE, re.MULTILINE)
    every = {None: "read off the checkpoint", 1: "before every layer", 2: "before every second layer",
             4: "before every fourth layer"}  # fmt: skip
    assert rows == [
        (name, preset.format, preset.language_model, every[preset.every]) for name, preset in PRESETS.items()
    ]
    assert all(options_of(command)["--preset"] in PRESETS for command in COMMANDS)
    assert all(
        options_of(command)["--text"] == PRESETS[options_of(command)["--preset"]].language_model
        for command in COMMANDS
    )


@pytest.mark.parametrize("form", ["cosmo convert", "python -m"])
def test_from_a_checkpoint_to_a_caption(form, tmp_path, pictures, monkeypatch, capsys):
    """Run the page's second command with tiny towers (hence without the preset), then its Python lines."""
    write_towers(tmp_path, "gpt_neox", whole_clip=True)
    torch.save(trained_state("gpt_neox"), tmp_path / "checkpoint.pt")
    own = {"--checkpoint": "checkpoint.pt", "--text": "text", "--vision": "vision", "--output": "models/of-4b"}
    arguments = [part for name in options_of(COMMANDS[1]) if name in own for part in (name, own[name])]
    monkeypatch.chdir(tmp_path)
    if form == "cosmo convert":
        result = CliRunner().invoke(app, ["convert", *arguments])
        status, shown = result.exit_code, result.output
    else:
        status, shown = main(arguments), capsys.readouterr().out
    assert status == 0
    assert "tensors written to models/of-4b (format openflamingo)" in shown
    assert "missing: model.vision_tower.post_layernorm.weight" in shown
    for name, picture in zip(("cat.jpg", "dog.jpg"), pictures, strict=False):
        picture.save(name)
    lines = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)[0]
    capsys.readouterr()
    exec(lines, {"CosmoForConditionalGeneration": CosmoForConditionalGeneration, "CosmoProcessor": CosmoProcessor})
    assert " cat" in capsys.readouterr().out  # the tiny tokenizer knows no capital letters


def test_an_unknown_preset_is_one_line(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"")
    arguments = ["convert", "--checkpoint", str(tmp_path / "weights.pt"), "--output", str(tmp_path / "model")]
    result = CliRunner().invoke(app, [*arguments, "--preset", "cosmo-3b", "--text", "t", "--vision", "v"])
    assert isinstance(result.exception, ValueError)  # which `cosmo` prints as one line: tests/test_cli.py
    assert str(result.exception) == f"there is no preset 'cosmo-3b'; the presets are {', '.join(PRESETS)}"
