"""The commands, figures and code that the README promises are checked against the real ones."""

import contextlib
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest
import typer.main

import cosmo_cli
from dataset_builder import build_corpus
from dataset_builder.toy.videos import write_toy_videos


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_figures_are_those_of_the_kept_run():
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "docs/update_readme.py")
    update_readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(update_readme)
    assert update_readme.readme_block(ROOT / "docs/results/quickstart.json") in README


def test_kept_run_has_the_promised_keys():
    results = json.loads((ROOT / "docs/results/quickstart.json").read_text())
    scores = {"object_accuracy", "action_accuracy", "cider", "num"}
    recalls = {"text_to_video_r1", "video_to_text_r1", "num"}
    for part in (results, results["blind"], results["chance"]):
        assert set(part["caption"]) == scores
        assert set(part["retrieval"]) == recalls
    assert set(results["frame_order"]) == {"with_frame_positions", "without"}
    assert results["seconds"] == pytest.approx(sum(results["stages"].values()))
    assert {"trainable_share", "peak_memory_gb", "revision", "seed", "command"} <= set(results)


def test_python_of_the_readme_runs(tiny_model_folder, tmp_path):
    write_toy_videos(tmp_path / "videos", num_videos=3, seed=0, workers=1, progress=False)
    build_corpus(tmp_path / "videos", tmp_path / "corpus", "toy", workers=1, progress=False)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace("runs/quickstart/model", str(tiny_model_folder))
    code = code.replace("runs/quickstart/corpus", str(tmp_path / "corpus"))
    code = code.replace("num_frames=6", "num_frames=3")  # the tiny model's limit
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    truth = json.loads(next((tmp_path / "videos/test").glob("*.json")).read_text())["steps"][0]["caption"]
    assert printed.getvalue().strip().endswith(f"| truth: {truth}")


def test_every_command_of_the_readme_exists():
    verbs = set(re.findall(r"`?make ([a-z-]+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert {"quickstart", "test", "frame-order", "demo"} <= verbs
    for verb in verbs - {"are"}:
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb
    named = set(re.findall(r"\bcosmo ([a-z]+)", README))
    assert {"build", "convert", "retrieve"} <= named <= set(typer.main.get_group(cosmo_cli.app).commands)


def test_tree_of_the_readme_exists():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL).group(1)
    parent, seen = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        parent = parent if line.startswith(" ") else name
        path = ROOT / (parent + name if line.startswith(" ") else name)
        assert path.exists(), path
        assert path not in seen, f"{path} stands there twice"
        seen.add(path)
