"""AdamW without decay on vectors and scalars, and a cosine with linear warm-up."""

import math

import torch
from torch import nn

from training.config import TrainingConfig


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return name -> parameter for all trainable parameters, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Build AdamW with weight decay on matrices only; norms, biases, gates and the temperature have at most one axis.

    The gates have their own learning rate. They start closed, and until they open, the blocks hardly affect the text
    and hardly get a gradient.
    """
    parameters = trainable_parameters(model)
    gates = [parameter for name, parameter in parameters.items() if name.endswith("_gate")]
    others = [parameter for name, parameter in parameters.items() if not name.endswith("_gate")]
    gate_factor = (config.gate_learning_rate or config.learning_rate) / (config.learning_rate or 1)
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": config.weight_decay, "lr_factor": 1.0},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0, "lr_factor": 1.0},
        {"params": gates, "weight_decay": 0.0, "lr_factor": gate_factor},
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of an optimizer step, counted from 0.

    It rises linearly to `learning_rate` over `warmup_steps`, then falls on a cosine to 0 at `max_steps`.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every parameter group, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]
