"""Checkpoints without pickle: trainable parameters and their AdamW moments as safetensors, the rest as JSON.

Frozen towers are not saved: they come from the config, as at the start. Samples, learning rate and random numbers
depend on the step only, so the step is all the state that they need.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dataset_builder.atomic import replacing_folder
from training.optimization import trainable_parameters


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, window: dict[str, Any], keep: int
) -> None:
    """Write `folder/step-N/` whole or not at all, then remove all but the `keep` newest.

    Args:
        folder: the run's `checkpoints/`.
        step: optimizer steps done.
        model: the bare model; its trainable parameters are saved.
        optimizer: AdamW of these parameters.
        window: sums since the last logged line, as JSON values.
        keep: number of checkpoints to keep, at least 1.
    """
    parameters = trainable_parameters(model)
    moments = {
        f"{name}/{key}": value.detach().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    with replacing_folder(folder / f"step-{step}") as partial:
        save_file(
            {name: value.detach().contiguous() for name, value in parameters.items()}, partial / "model.safetensors"
        )
        save_file(moments, partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps({"step": step, "window": window}, indent=2))
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
    """Load a checkpoint into a model and optimizer built from the same config.

    Returns:
        The optimizer steps done, and the sums since the last logged line.

    Raises:
        ValueError: if the checkpoint holds other parameters than the trainable ones.
    """
    parameters = trainable_parameters(model)
    saved = load_file(path / "model.safetensors")
    if saved.keys() != parameters.keys():
        odd = sorted(saved.keys() ^ parameters.keys())
        raise ValueError(f"{path} does not fit the model: {len(odd)} parameters differ, {odd[0]} first")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    _load_moments(load_file(path / "optimizer.safetensors"), parameters, optimizer)
    state = json.loads((path / "state.json").read_text())
    return state["step"], state["window"]


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def _load_moments(
    moments: dict[str, torch.Tensor], parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Fill the optimizer's state; parameters that never had a gradient get none."""
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        by_name.setdefault(name, {})[kind] = value
    numbers = {
        id(item): index for index, item in enumerate(item for g in optimizer.param_groups for item in g["params"])
    }
    state = optimizer.state_dict()
    state["state"] = {numbers[id(parameters[name])]: kinds for name, kinds in by_name.items()}
    optimizer.load_state_dict(state)
