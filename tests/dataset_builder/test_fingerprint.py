"""What an edit makes a build redo: outcomes if the code of their stages changed, else the assembly, or nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dataset_builder import load_recipe
from dataset_builder.engines import fingerprint
from dataset_builder.engines.fingerprint import build_fingerprint, source_files, video_key
from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.inputs import find_videos


ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dataset_builder"

# Edits each file in turn and restores it; prints what the edit changes: the outcomes of either recipe (only `narrated`
# has the stages look and narrate), and the corpus that is assembled from outcomes.
EDIT_EACH = """
import json, sys
from pathlib import Path

from dataset_builder import load_recipe
from dataset_builder.engines import fingerprint

recipes = {name: load_recipe(file) for name, file in json.loads(sys.argv[1]).items()}


def parts():
    outcomes = {name: fingerprint.build_fingerprint(recipe) for name, recipe in recipes.items()}
    return {**outcomes, "assembly": fingerprint.assembly_fingerprint()}


before, changed = parts(), {}
for name in sys.argv[2:]:
    path = fingerprint.PACKAGE / name
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\\n# edited\\n", encoding="utf-8")
    changed[name] = [part for part, value in parts().items() if value != before[part]]
    path.write_text(text, encoding="utf-8")
assert parts() == before
assert str(fingerprint.PACKAGE).startswith(sys.path[0] or str(Path.cwd()))
print(json.dumps({"changed": changed, "torch": "torch" in sys.modules}))
"""
ALL = ["plain", "narrated", "assembly"]
OUTCOMES = ["plain", "narrated"]  # with them their keys, and so the corpus that is assembled from them
EDITS = {  # file -> what has to be done again after an edit
    "stages/segment.py": ALL,  # a stage
    "stages/probe.py": OUTCOMES,  # the stage that always runs first
    "compare/kts.py": ALL,  # imported by a stage
    "models/embed.py": ALL,  # imported inside a function of a stage
    "video/needed_frames.py": ALL,  # imported by what a stage imports
    "schema.py": ALL,
    "draft.py": ALL,
    "pipeline.py": OUTCOMES,  # the order of the stages
    "engines/outcome_file.py": ALL,  # how an outcome is written
    "engines/slurm.py": [],
    "words/function_words.yaml": ALL,
    "words/sensitive_en.txt": ALL,
    "stages/narrate.py": ["narrated", "assembly"],  # a stage that only one of the recipes has
    "models/chat_endpoint.py": ["narrated", "assembly"],
    "prompts/narrate.md": ["narrated"],
    "stages/score.py": ["assembly"],  # a stage that neither recipe has: the assembly reads recipes
    "recipe.py": ["assembly"],  # of a recipe, the values count
    "stages/deduplicate.py": ["assembly"],  # sees all videos
    "assemble.py": ["assembly"],
    "build.py": [],
    "card.py": ["assembly"],
    "corpus/shards.py": ["assembly"],
    "corpus/inspect_page.py": [],
    "corpus/inspect_corpus.py": [],
    "corpus/templates/inspect.html.jinja": [],
    "streaming.py": [],
    "readers/mmc4.py": [],
    "toy/render.py": [],
    "recipes/laptop.yaml": [],
}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> dict[str, Path]:
    """The recipe `laptop`, and the same recipe with captions by a chat model."""
    folder = tmp_path_factory.mktemp("recipes")
    plain = yaml.safe_load((PACKAGE / "recipes" / "laptop.yaml").read_text(encoding="utf-8"))
    narrate = {"endpoint": "http://localhost:9/v1", "model": "none"}
    narrated: dict = {}
    for stage, values in plain.items():
        narrated |= {"narrate": narrate} if stage == "caption" else {stage: values}
    for name, values in {"plain": plain, "narrated": narrated}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return {name: folder / f"{name}.yaml" for name in ("plain", "narrated")}


@pytest.fixture(scope="module")
def found(recipes, tmp_path_factory) -> dict:
    """What each edit changes, tried in a copy of the package."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, copy / "dataset_builder", ignore=shutil.ignore_patterns("__pycache__"))
    files = json.dumps({name: str(path) for name, path in recipes.items()})
    result = subprocess.run(
        [sys.executable, "-c", EDIT_EACH, files, *EDITS],
        cwd=copy, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_has_the_right_things_done_again(found, name):
    assert found["changed"][name] == EDITS[name]


def test_the_hash_loads_no_model_library(found):
    assert not found["torch"]


def test_every_folder_of_data_is_accounted_for():
    """Words count as code; weights, prompts and recipes by what a recipe names; the page's template for no outcome."""
    folders = {path.relative_to(PACKAGE).parts[:-1] for path in PACKAGE.rglob("*") if is_data(path)}
    tops = {parts[:2] if parts[0] == "toy" else parts for parts in folders}
    assert tops == {("words",), ("prompts",), ("recipes",), ("corpus", "templates"), ("toy", "towers")}


def is_data(path: Path) -> bool:
    return path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts


def test_every_word_list_is_read_by_a_module_that_names_it():
    files = source_files(["dataset_builder.stages.filter"])
    assert {path for path in files if path.startswith("words/")} == {
        f"words/{path.name}" for path in (PACKAGE / "words").iterdir()
    }


def test_imports_are_followed_however_they_are_written(tmp_path, monkeypatch):
    package = tmp_path / "pack"
    for name, text in {
        "words/listed.txt": "star",
        "words/other.txt": "ring",
        "__init__.py": "import pack.unseen",
        "unseen.py": "",
        "start.py": "def late():\n    from pack.folder import one\n\nif True:\n    import pack.plain as known\n",
        "folder/__init__.py": "from pack.folder.two import x\n",
        "folder/one.py": "from pack import circle\n",
        "folder/two.py": "x = 'listed.txt'",
        "circle.py": "import os\nimport pack.start\n",
        "plain.py": "",
        "ordered.py": "import pack.unseen",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(fingerprint, "PACKAGE", package)
    expected = ["circle.py", "folder/__init__.py", "folder/one.py", "folder/two.py"]
    expected += ["ordered.py", "plain.py", "start.py", "words/listed.txt"]
    assert [*source_files(["pack.start"], alone=["pack.ordered"])] == expected


def test_no_file_of_the_package_imports_relatively():
    """The walk reads dotted names only."""
    assert not [path for path in PACKAGE.rglob("*.py") if "\nfrom ." in path.read_text(encoding="utf-8")]


def test_an_outcome_is_named_by_the_fingerprint(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (source,) = find_videos(tmp_path)
    before = video_key(build_fingerprint(load_recipe("toy")), source)
    assert video_key(build_fingerprint(load_recipe("toy")), source) == before
    assert video_key("another", source) != before
    assert Outcomes(tmp_path / ".build").path(before).stem == before
