import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from dataset_builder.models import devices
from dataset_builder.models.devices import compute_dtype, worker_device, worker_number
from dataset_builder.models.model_folders import ModelPlace, find_model, weights


@pytest.mark.parametrize(
    ("name", "place", "shown"),
    [
        ("openai/clip-vit-base-patch32", ModelPlace("openai/clip-vit-base-patch32"), "openai/clip-vit-base-patch32"),
        ("a/b.c@refs/pr/3", ModelPlace("a/b.c", "refs/pr/3"), "a/b.c@refs/pr/3"),
        ("a/b@0123abc", ModelPlace("a/b", "0123abc"), "a/b@0123abc"),
    ],
)
def test_repositories_of_the_hub(name, place, shown):
    found = find_model(name)
    assert found == place
    assert (found.name, found.fingerprint()) == (shown, None)
    assert found.options == ({"revision": place.revision} if place.revision else {})


def test_folders_come_first(tmp_path, tower_dir, monkeypatch):
    found = find_model(str(tower_dir))
    assert (found.name, found.options) == (tower_dir.name, {})
    assert found.fingerprint()
    assert find_model("toy").name == "toy"
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_model("a/b").name == "b"


@pytest.mark.parametrize("name", ["gone", "/gone/away", "a/b/c", "../x", "a/b@", "a b/c", ""])
def test_what_is_neither_is_refused(name):
    with pytest.raises(ValueError, match="no model"):
        find_model(name)


def test_a_repository_is_known_by_its_commit():
    model = SimpleNamespace(config=SimpleNamespace(_commit_hash="0123abc"))
    assert weights(ModelPlace("a/b"), model) == {"weights": "0123abc"}
    assert weights(ModelPlace("a/b"), SimpleNamespace(config=SimpleNamespace())) == {}


def test_a_repository_that_cannot_be_reached_is_told_in_one_line(monkeypatch):
    from dataset_builder.models.embed import TowerEmbedder

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="cannot load the tower 'nobody/no-such-model'") as refusal:
        TowerEmbedder("nobody/no-such-model")
    assert "\n" not in str(refusal.value)


def test_each_worker_has_its_own_gpu(monkeypatch):
    assert worker_number() == 0
    assert worker_device() == torch.device("cpu") or torch.cuda.is_available()
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 3)
    found = []
    for number in (1, 2, 3, 4):
        monkeypatch.setattr(multiprocessing.current_process(), "_name", f"SpawnProcess-{number}")
        found.append(str(worker_device()))
    assert found == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert compute_dtype(torch.device("cuda", 1)) is torch.bfloat16
    assert compute_dtype(torch.device("cpu")) is torch.float32
