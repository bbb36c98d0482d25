"""The console command answers quickly, prints one clear line on bad input, and is a thin layer over functions."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.core import TyperGroup

import cosmo_cli
from dataset_builder.errors import BuildStopped
from tests.tiny_model import save_tiny_tower
from training.interruption import Interrupted


ROOT = Path(__file__).parents[1]


def cosmo(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in its own process."""
    return subprocess.run(
        [sys.executable, "-c", "import cosmo_cli; cosmo_cli.main()", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def commands(group: TyperGroup, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*prefix, name)) if isinstance(command, TyperGroup) else [(*prefix, name)]
    return found


ALL_COMMANDS = commands(typer.main.get_group(cosmo_cli.app))


def test_help_answers_within_a_second_and_loads_no_torch(tmp_path):
    code = "import sys, cosmo_cli\ntry:\n    cosmo_cli.main()\nfinally:\n    print('torch' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: the wall clock would also count other processes on this machine.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 1, "0.1 s on an idle machine; importing torch alone takes 2 s"
    assert result.stdout.rstrip().endswith("False")


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_finds_its_functions(command, tmp_path):
    """`--help` lists only commands that work: everything that a subcommand imports exists."""
    result = cosmo(*command, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split("Options:")[0].split()) > 8, "says what it does"


def test_what_the_subcommands_import_is_there():
    """Checks the imports inside the subcommands, which `--help` does not run."""
    import ast
    import importlib

    tree = ast.parse((ROOT / "cosmo_cli.py").read_text())
    inside = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.module
    ]
    assert len(inside) >= 8
    for node in inside:
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


BAD_INPUT = {
    "build an empty folder": (["build", "empty", "--output", "out"], "empty"),
    "build what is not there": (["build", "nowhere", "--output", "out"], "nowhere"),
    "build by an unknown recipe": (["build", "videos", "--output", "out", "--recipe", "nosuch"], "nosuch"),
    "train by an unknown config": (["train", "--config", "nosuch"], "nosuch"),
    "train with an unknown key": (["train", "--config", "toy", "learning_rat=1"], "learning_rat"),
    "caption without a model": (["caption", "nowhere", "clip.mp4"], "nowhere"),
    "publish what is not there": (["publish", "model", "nowhere", "--repo-id", "a/b", "--dry-run"], "nowhere"),
    "publish an empty model": (["publish", "model", "empty", "--repo-id", "a/b", "--dry-run"], "config.json"),
    "convert what is not there": (
        ["convert", "--checkpoint", "gone.safetensors", "--architecture", "a.json", "--output", "out"],
        "a.json",
    ),
    "demo without a model": (["demo", "--model", "nowhere"], "nowhere"),
    "videos of a size there is not": (
        ["toy", "videos", "--output", "out", "--num-videos", "3", "--size-px", "65"],
        "65",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_clear_line(case, tmp_path, monkeypatch, capsys):
    """Runs in this process, so that torch is imported once for all cases."""
    arguments, expected = BAD_INPUT[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cosmo", *arguments])
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit) as stopped:
        cosmo_cli.main()
    assert stopped.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line


@pytest.mark.parametrize(("command", "package"), [("build", "dataset_builder"), ("train", "training")])
def test_the_help_names_every_shipped_recipe(command, package):
    options = {
        name: option.help
        for option in typer.main.get_group(cosmo_cli.app).commands[command].params
        for name in option.opts
    }
    shipped = sorted(path.stem for path in (ROOT / package / "recipes").iterdir())
    assert len(shipped) > 2
    assert f"({', '.join(shipped)})" in options["--recipe" if command == "build" else "--config"]


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_a_damaged_model_is_named(damage, tiny_model_folder, tmp_path, monkeypatch, capsys):
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    if damage == "config.json":
        text = (model / damage).read_text()
        (model / damage).write_text(re.sub(r'"compress_ratio": \d+', '"compress_ratio": "one"', text))
    else:
        (model / damage).write_bytes((model / damage).read_bytes()[:-7])
    monkeypatch.setattr(sys, "argv", ["cosmo", "caption", str(model), "clip.mp4"])
    with pytest.raises(SystemExit) as stopped:
        cosmo_cli.main()
    assert stopped.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cosmo: error: the model {model} is damaged: ")


def test_damaged_videos_are_exit_code_3_unless_allowed(tmp_path):
    made = cosmo("toy", "videos", "--output", "videos", "--num-videos", 3, "--workers", 1, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "1 train" in made.stdout
    (tmp_path / "videos" / "train" / "damaged.mp4").write_bytes(b"no video")
    tower = save_tiny_tower(tmp_path / "tower")
    recipe = yaml.safe_load((ROOT / "dataset_builder" / "recipes" / "toy.yaml").read_text())
    recipe["segment"]["tower"] = str(tower)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    build = ["build", "videos", "--output", "corpus", "--recipe", "recipe.yaml", "--workers", 1]
    strict = cosmo(*build, cwd=tmp_path)
    assert strict.returncode == 3, strict.stderr
    assert "damaged.mp4" in (tmp_path / "corpus" / "quarantine.jsonl").read_text()
    assert "quarantine.jsonl" in strict.stdout
    assert cosmo(*build, "--allow-quarantine", cwd=tmp_path).returncode == 0
    listed = cosmo("publish", "dataset", "corpus", "--repo-id", "me/corpus", "--dry-run", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert ".parquet" in listed.stdout
    assert "nothing was uploaded" in listed.stdout


def test_captions_come_one_a_line(tiny_model_folder, tmp_path):
    made = cosmo("toy", "videos", "--output", "videos", "--num-videos", 3, "--workers", 1, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    clip = next((tmp_path / "videos").rglob("*.mp4"))
    (tmp_path / "letter.mp4").write_text("no video")
    result = cosmo("caption", tiny_model_folder, "letter.mp4", clip, cwd=tmp_path)
    assert result.returncode == 1, "one of the two could not be read"
    [line] = result.stdout.splitlines()
    assert line.startswith(f"{clip}\t")
    assert "cosmo: error: letter.mp4 cannot be read as a video or picture" in result.stderr


def test_the_demo_folder_can_be_published(tmp_path):
    listed = cosmo("publish", "space", ROOT / "demo", "--repo-id", "me/demo", "--dry-run", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    for name in ("app.py", "engine.py", "media.py", "cards.py", "README.md", "requirements.txt"):
        assert f" {name}\n" in listed.stdout
    assert "__pycache__" not in listed.stdout


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "demo.app", raising=False)
    monkeypatch.setattr(sys, "argv", ["cosmo", "demo", "--model", "x"])
    with pytest.raises(SystemExit):
        cosmo_cli.main()
    assert "pip install 'cosmo-vlm[demo]'" in capsys.readouterr().err


def test_a_bug_of_ours_is_called_one(monkeypatch, capsys):
    # Importing it fails, and no extra would help.
    monkeypatch.setitem(sys.modules, "training.publishing.publish", None)
    monkeypatch.setattr(sys, "argv", ["cosmo", "publish", "space", ".", "--repo-id", "a/b"])
    with pytest.raises(ModuleNotFoundError):
        cosmo_cli.main()
    assert "bug" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [ValueError, BuildStopped, Interrupted])
def test_a_build_that_ends_says_at_which_video(kind, monkeypatch, capsys, tmp_path):
    def end(*_, **__):
        error = kind("no answer")
        error.add_note("(at the video a.mp4)")
        raise error

    monkeypatch.setattr("dataset_builder.build.build_corpus", end)
    monkeypatch.setattr(sys, "argv", ["cosmo", "build", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        cosmo_cli.main()
    assert capsys.readouterr().err == "cosmo: error: no answer (at the video a.mp4)\n"


def test_a_librarys_error_in_a_build_keeps_its_traceback(monkeypatch, capsys, tmp_path):
    """torch raises RuntimeError for shapes that do not fit; that is a bug, and its place has to be reported."""

    def fail(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("dataset_builder.build.build_corpus", fail)
    monkeypatch.setattr(sys, "argv", ["cosmo", "build", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(RuntimeError, match="shapes"):
        cosmo_cli.main()
    assert "bug" in capsys.readouterr().err
