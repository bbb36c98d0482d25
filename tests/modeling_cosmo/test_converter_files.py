"""Files that hold checkpoints: shards with and without an index, old torch files, and damaged ones."""

import json
import random
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
    """Write two shards under the names that transformers uses."""
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
    for text, message in (
        ("{}", "has no weight_map"),
        ('{"weight_map": {"part.1": 3}}', "has no weight_map"),
        ("[1]", "holds a list, not a JSON object"),
        ('{"weight', r"index\.json is not JSON"),
    ):
        index.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_state(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "{outside}/secret.safetensors", "in/secret.safetensors"])
def test_an_index_that_leads_out_of_its_folder(state, tmp_path, name):
    folder = tmp_path / "checkpoint"
    (folder / "in").mkdir(parents=True)
    for place in (tmp_path, folder / "in"):
        save(state, place / "secret.safetensors")
    name = name.format(outside=tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(state, name)}))
    with pytest.raises(ValueError, match=f"index.json names the shard {name}, which is not a file in the same folder"):
        read_state(folder)


def test_a_tensor_in_two_shards(state, tmp_path):
    save(state, tmp_path / "a.safetensors")
    save({"part.1": state["part.1"].clone()}, tmp_path / "b.safetensors")
    assert same(read_state(tmp_path), state)
    save({"part.1": state["part.1"] + 1}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"tensor part.1 of .*b.safetensors differs"):
        read_state(tmp_path)


def test_torch_files_from_before_1_6(state, tmp_path):
    """They cannot be mapped into memory, so they are read in full."""
    torch.save({"state_dict": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_state(tmp_path / "old.pt"), state)


def test_files_that_hold_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint .*gone.pt"):
        read_state(tmp_path / "gone.pt")
    with pytest.raises(ValueError, match=r"neither .safetensors nor torch files"):
        read_state(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"broken.safetensors is not a safetensors file"):
        read_state(tmp_path / "broken.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"no zip, no pickle")
    with pytest.raises(ValueError, match=r"broken.pt cannot be read as a torch file"):
        read_state(tmp_path / "broken.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({1: torch.ones(2)}, tmp_path / "numbers.pt")
    for name in ("list.pt", "numbers.pt"):
        with pytest.raises(ValueError, match=f"{name} holds no state dict"):
            read_state(tmp_path / name)


def test_damage_of_any_kind_gives_tensors_or_a_value_error(state, tmp_path):
    """Files are cut off or changed in a few bytes; the message is one line, without advice to run the file."""
    save(state, tmp_path / "whole.safetensors")
    save(state, tmp_path / "whole.pt")
    torch.save(state, tmp_path / "whole.bin", _use_new_zipfile_serialization=False)
    draw = random.Random(0)
    refusals = []
    for path in sorted(tmp_path.iterdir()):
        for trial in range(40):
            data = bytearray(path.read_bytes())
            data = data[: draw.randrange(len(data))] if trial % 3 == 0 else data
            for _ in range(trial % 9):
                data[draw.randrange(len(data))] = draw.randrange(256)
            damaged = tmp_path / f"damaged{path.suffix}"
            damaged.unlink(missing_ok=True)
            damaged.write_bytes(data)
            try:
                read_state(damaged)
            except ValueError as error:
                refusals.append(str(error).partition(str(damaged)))
    assert len(refusals) > 40
    assert {len(refusal.splitlines()) for _, damaged, refusal in refusals if damaged} == {1}
    assert max(len(refusal) for *_, refusal in refusals) < 500
    assert all(damaged for _, damaged, _ in refusals)


@pytest.mark.skipif(not MAPS.is_file(), reason="only Linux tells which files are mapped into memory")
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_tensors_stay_in_their_file(state, tmp_path, name):
    """Unused tensors are not read, such as the optimizer state in a training checkpoint."""
    save(state, tmp_path / name)
    found = read_state(tmp_path / name)
    assert str(tmp_path / name) in MAPS.read_text()
    assert same(found, state)
