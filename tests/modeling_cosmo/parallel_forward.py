"""Spread a tiny CosMo over processes by transformers' own plans: `python -m tests.modeling_cosmo.parallel_forward`.

`FOLDER KIND STYLE [STYLE...]` loads `FOLDER/KIND` in every process. The first process writes `KIND-STYLE.pt` (the
logits, the gradients and the weights after one step of SGD) and saves that model as `FOLDER/STYLE`.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import DistributedConfig

from modeling_cosmo import CosmoDataCollator, CosmoForConditionalGeneration
from tests.modeling_cosmo.trainer_step import samples, tiny_processor


CONFIGS = {"tensors": {"tp_size": 2}, "weights": {"fsdp_size": 2}}
RATE = 0.1


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_model(folder, style):
    options = {} if style == "alone" else {"distributed_config": DistributedConfig(**CONFIGS[style])}
    return CosmoForConditionalGeneration.from_pretrained(folder, freeze_towers=True, **options)


def step(folder, style):
    """One step on all samples; FSDP gives each process its own."""
    model = spread_model(folder, style)
    batch = CosmoDataCollator(tiny_processor())(samples())
    total = (batch["labels"][:, 1:] != -100).sum()
    if style == "weights":
        mine = slice(None, 2) if os.environ["RANK"] == "0" else slice(2, None)
        batch = {name: value[mine] for name, value in batch.items()}
    split = {name for name, parameter in model.named_parameters() if isinstance(parameter, DTensor)}
    outputs = model.train()(**batch, num_items_in_batch=total)
    (outputs.loss * (2 if style == "weights" else 1)).backward()  # FSDP takes the mean over processes
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = {"split": split, "logits": outputs.logits.detach()}
    found["gradients"] = {name: whole(parameter.grad).clone() for name, parameter in trained.items()}
    torch.optim.SGD(trained.values(), lr=RATE).step()
    if style != "alone":
        model.save_pretrained(Path(folder).parent / style)
    found["weights"] = {name: whole(parameter.detach()).clone() for name, parameter in trained.items()}
    return found


if __name__ == "__main__":
    output, kind, *styles = sys.argv[1:]
    for name in styles:
        result = step(Path(output, kind), name)
        if os.environ["RANK"] == "0":
            torch.save(result, Path(output, f"{kind}-{name}.pt"))
        distributed.barrier()
