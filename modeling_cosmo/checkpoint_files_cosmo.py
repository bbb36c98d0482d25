"""Read checkpoint files: one or many shards, safetensors or torch, whatever dict wraps the tensors.

Tensors stay in their files until they are used, if the file format allows it. Only tensors are ever unpickled.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .checkpoint_names_cosmo import State


_WRAPPERS = ("model_state_dict", "state_dict", "module", "model")
_TORCH_FILES = ("*.bin", "*.pt", "*.pth")


def read_state(path: Path) -> State:
    """Tensors of a checkpoint under their names in the file.

    Args:
        path: a safetensors or torch file, an index of shards (`*.index.json`), or a folder of shards with or without
            an index.

    Raises:
        ValueError: if a shard is missing or holds anything but tensors, or two shards disagree about a tensor.
    """
    if not path.exists():
        raise ValueError(f"there is no checkpoint {path}")
    if path.name.endswith(".index.json"):
        return _read_indexed(path)
    if not path.is_dir():
        return _read_file(path)
    if indexes := sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.bin.index.json")):
        return _read_indexed(indexes[0])
    files = sorted(path.glob("*.safetensors")) or sorted(file for kind in _TORCH_FILES for file in path.glob(kind))
    if not files:
        raise ValueError(f"{path} holds neither .safetensors nor torch files ({', '.join(_TORCH_FILES)})")
    _check_numbering(files)
    return _read_shards(files)


def read_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object.

    Raises:
        ValueError: if it holds anything else, naming it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


def _read_indexed(index: Path) -> State:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} has no weight_map: it is not an index of shards")
    names = sorted(set(places.values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index} names the shard {outside[0]}, which is not a file in the same folder")
    files = [index.parent / name for name in names]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{index} names the shard {file.name}, which is missing")
    state = _read_shards(files)
    if lacking := sorted(places.keys() - state.keys()):
        raise ValueError(f"the shards of {index} lack {len(lacking)} tensors that it names, among them {lacking[0]}")
    return state


def _check_numbering(files: list[Path]) -> None:
    """Refuse a series `NAME-00001-of-00003` that is incomplete."""
    found = Counter(
        (match[1], int(match[2])) for file in files if (match := re.fullmatch(r"(.+)-\d+-of-(\d+)", file.stem))
    )
    for (name, total), number in found.items():
        if number != total:
            raise ValueError(f"{files[0].parent} holds {number} of the {total} shards of {name}")


def _read_shards(files: list[Path]) -> State:
    state: State = {}
    for file in files:
        for name, tensor in _read_file(file).items():
            if name in state and not torch.equal(state[name], tensor):
                raise ValueError(f"tensor {name} of {file} differs from the one of the same name in another shard")
            state[name] = tensor
    return state


def _read_file(path: Path) -> State:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    state = _load_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ValueError(f"{path} holds no state dict")
    return state


def _load_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises all kinds of errors for a damaged file, struct.error among them
        raise _unreadable(path, error) from error


def _is_zip(path: Path) -> bool:
    """Whether a torch file can be mapped into memory; files in the format before torch 1.6 cannot."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _unreadable(path: Path, error: Exception) -> ValueError:
    """Error for an unreadable file, without torch's long advice on how to run what is in the file."""
    lines = str(error).splitlines() or [type(error).__name__]
    reason = next((line for line in lines if "WeightsUnpickler error" in line), lines[0]).partition(" Please use")[0]
    return ValueError(f"{path} cannot be read as a torch file with weights_only=True: {reason.strip()}")
