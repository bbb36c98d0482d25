"""Publishing: what it refuses, lists and uploads."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub.loopback_hub import LoopbackHub
from training.publishing.publish import plan_publish, publish


PUSH = """
import sys
from pathlib import Path
from training.publishing.publish import publish
plan = publish(sys.argv[1], Path(sys.argv[2]), sys.argv[3], revision=sys.argv[4])
print(plan.url)
"""


def test_dry_run_lists_exactly_the_files_that_would_travel(model_folder):
    (model_folder / "__pycache__").mkdir()
    (model_folder / "__pycache__" / "modeling_cosmo.cpython-311.pyc").write_bytes(b"x")
    plan = publish("model", model_folder, "someone/cosmo", dry_run=True)
    assert [file.path for file in plan.files] == [
        "README.md",
        "config.json",
        "configuration_cosmo.py",
        "layers_cosmo.py",
        "model.safetensors",
        "modeling_cosmo.py",
    ]
    assert plan.num_bytes == sum(path.stat().st_size for path in model_folder.iterdir() if path.is_file())
    assert plan.left_out == ("__pycache__/modeling_cosmo.cpython-311.pyc",)
    assert plan.url is None
    assert f"{plan.num_bytes:,}  total, 6 files" in plan.describe()


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])


def escape(folder: Path) -> None:
    outside = folder.parent / "diary.txt"
    outside.write_text("private")
    (folder / "notes.txt").symlink_to(outside)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (drop("config.json"), "has no config.json"),
        (write("config.json", "{"), "is not valid JSON"),
        (write("config.json", json.dumps({"auto_map": {}})), "auto_map names no AutoConfig"),
        (drop("layers_cosmo.py"), "lacks layers_cosmo.py"),
        (drop("model.safetensors"), "model.safetensors is missing"),
        (truncate, "truncated"),
        (write("model.safetensors", b"1234"), "not a complete safetensors"),
        (drop("README.md"), "has no card"),
        (write("README.md", "# no header\n"), "YAML header"),
        (write("README.md", "---\na: [1\n---\n"), "is not valid YAML"),
        (write(".env", "A=1"), "looks like a credential"),
        (write("notes.md", "my token is hf_" + "a1B2" * 9), "access token"),
        (write("key.txt", "-----BEGIN OPENSSH PRIVATE KEY-----"), "private key"),
        (write("optimizer.pt", b"x"), "pickled"),
        (escape, "leads out of"),
    ],
)
def test_a_broken_or_leaking_model_is_refused(model_folder, damage, complaint):
    damage(model_folder)
    with pytest.raises(ValueError, match=complaint):
        plan_publish("model", model_folder, "someone/cosmo")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (drop("data/test-00000-of-00001.parquet"), r"no file matches data/test-\*.parquet"),
        (write("data/train-00000-of-00001.parquet", b"PAR1 not really"), "not a readable Parquet"),
        (drop("README.md"), "has no card"),
    ],
)
def test_a_broken_corpus_is_refused(dataset_folder, damage, complaint):
    damage(dataset_folder)
    with pytest.raises(ValueError, match=complaint):
        plan_publish("dataset", dataset_folder, "someone/corpus")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (drop("requirements.txt"), "has no requirements.txt"),
        (write("app.py", "def ("), "does not parse"),
        (write("README.md", "---\nsdk: docker\n---\n"), "expected 'gradio'"),
    ],
)
def test_a_broken_space_is_refused(space_folder, damage, complaint):
    damage(space_folder)
    with pytest.raises(ValueError, match=complaint):
        plan_publish("space", space_folder, "someone/demo")


def test_names_that_are_no_names_are_refused(model_folder, tmp_path):
    with pytest.raises(ValueError, match="a/b/c"):
        plan_publish("model", model_folder, "a/b/c")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        plan_publish("model", tmp_path / "nowhere", "a/b")


def test_what_the_builder_keeps_for_itself_stays_at_home(dataset_folder):
    (dataset_folder / "quarantine.jsonl").write_text("{}\n")
    (dataset_folder / ".build" / "results").mkdir(parents=True)
    (dataset_folder / ".build" / "results" / "a.json").write_text("{}")
    assert plan_publish("dataset", dataset_folder, "a/b").left_out == (".build/results/a.json", "quarantine.jsonl")


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_push_leaves_nothing_stale(hub: LoopbackHub, in_hub_process, model_folder):
    (model_folder / "odd [name].txt").write_text("a name that is a pattern, too")
    first = in_hub_process(PUSH, "model", str(model_folder), "tester/cosmo", "main", project=True)
    assert first.strip() == f"{hub.url}/tester/cosmo"
    uploaded = hub.files("model", "tester/cosmo")
    assert uploaded.pop(".gitattributes") == b""
    assert uploaded == read_folder(model_folder)

    (model_folder / "layers_cosmo.py").unlink()
    (model_folder / "modeling_cosmo.py").write_text("x = 1\n")
    in_hub_process(PUSH, "model", str(model_folder), "tester/cosmo", "main", project=True)
    uploaded = hub.files("model", "tester/cosmo")
    assert ".gitattributes" in uploaded, "the Hub's own file stays"
    del uploaded[".gitattributes"]
    assert uploaded == read_folder(model_folder)


def test_a_revision_is_a_branch_of_its_own(hub: LoopbackHub, in_hub_process, space_folder):
    in_hub_process(PUSH, "space", str(space_folder), "tester/demo", "next", project=True)
    assert set(hub.files("space", "tester/demo")) == {".gitattributes"}
    assert set(hub.files("space", "tester/demo", "next")) == {
        ".gitattributes",
        "README.md",
        "app.py",
        "requirements.txt",
    }


def test_a_published_corpus_streams(in_hub_process, dataset_folder):
    in_hub_process(PUSH, "dataset", str(dataset_folder), "tester/corpus", "main", project=True)
    code = """
import json
from datasets import load_dataset
splits = load_dataset("tester/corpus", streaming=True)
print(json.dumps({name: [row["video_id"] for row in rows] for name, rows in splits.items()}))
"""
    assert json.loads(in_hub_process(code, token=None)) == {
        "train": [f"train-{row}" for row in range(5)],
        "test": [f"test-{row}" for row in range(3)],
    }


REFUSED = """
import sys
from pathlib import Path
from training.publishing.publish import publish
try:
    publish("space", Path(sys.argv[1]), "tester/demo")
except OSError as error:
    print(type(error).__name__, error)
"""


def test_a_refusal_by_the_hub_is_an_os_error(in_hub_process, space_folder):
    assert "401" in in_hub_process(REFUSED, str(space_folder), project=True, token="not-the-token")


def test_an_unreachable_hub_is_named(hub, in_hub_process, space_folder):
    hub.shutdown()
    hub.server_close()
    assert "cannot reach http://127.0.0.1" in in_hub_process(REFUSED, str(space_folder), project=True)
