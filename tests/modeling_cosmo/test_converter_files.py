"""Files that checkpoints come in: shards with and without an index, old torch files, and what is wrong with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling_cosmo.checkpoint_files_cosmo import read_state


MAPS = Path("/proc/self/maps")


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {f"part.{index}": torch.randn(3, 2 + index, generator=generator) for index in range(5)}


def save(state, path):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def write_shards(state, folder, kind, with_index):
    """Two shards in the names that transformers gives them."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    places = {}
    for number in (1, 2):
        name = f"{stem}-0000{number}-of-00002.{kind}"
        part = {key: state[key] for key in sorted(state)[number - 1 :: 2]}
        save(part, folder / name)
        places |= dict.fromkeys(part, name)
    index = folder / f"{stem}.{kind}.index.json"
    if with_index:
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def same(found, expect):
    return found.keys() == expect.keys() and all(torch.equal(found[name], expect[name]) for name in expect)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("with_index", [True, False])
def test_shards(state, tmp_path, kind, with_index):
    index = write_shards(state, tmp_path, kind, with_index)
    assert same(read_state(tmp_path), state)
    if with_index:
        (tmp_path / f"other.{kind}").write_bytes(b"not among the shards")
        assert same(read_state(tmp_path), state)
        assert same(read_state(index), state)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_missing_shard_is_named(state, tmp_path, kind):
    index = write_shards(state, tmp_path, kind, True)
    shards = sorted(tmp_path.glob(f"*-of-00002.{kind}"))
    shards[1].unlink()
    with pytest.raises(ValueError, match=rf"index.json names the shard {shards[1].name}, which is missing"):
        read_state(tmp_path)
    index.unlink()
    with pytest.raises(ValueError, match=r"holds 1 of the 2 shards of \S*model"):
        read_state(tmp_path)


def test_an_index_that_names_too_much(state, tmp_path):
    index = write_shards(state, tmp_path, "safetensors", True)
    content = json.loads(index.read_text())
    content["weight_map"]["part.9"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lack 1 tensors that it names, among them part.9"):
        read_state(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        read_state(tmp_path)


def test_a_tensor_in_two_shards(state, tmp_path):
    save(state, tmp_path / "a.safetensors")
    save({"part.1": state["part.1"].clone()}, tmp_path / "b.safetensors")
    assert same(read_state(tmp_path), state)
    save({"part.1": state["part.1"] + 1}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"tensor part.1 of .*b.safetensors differs"):
        read_state(tmp_path)


def test_torch_files_from_before_1_6(state, tmp_path):
    """They cannot be mapped into memory, so they are read into it."""
    torch.save({"state_dict": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_state(tmp_path / "old.pt"), state)


def test_files_that_hold_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint .*gone.pt"):
        read_state(tmp_path / "gone.pt")
    with pytest.raises(ValueError, match=r"neither .safetensors nor torch files"):
        read_state(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"broken.safetensors is no safetensors file"):
        read_state(tmp_path / "broken.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"no zip, no pickle")
    with pytest.raises(ValueError, match=r"broken.pt is no torch file"):
        read_state(tmp_path / "broken.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list.pt holds no state dict"):
        read_state(tmp_path / "list.pt")


@pytest.mark.skipif(not MAPS.is_file(), reason="only Linux tells which files are mapped into memory")
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_tensors_stay_in_their_file(state, tmp_path, name):
    """What is not used is not read: such as the optimizer beside the weights of a training checkpoint."""
    save(state, tmp_path / name)
    found = read_state(tmp_path / name)
    assert str(tmp_path / name) in MAPS.read_text()
    assert same(found, state)
