"""Plans by which transformers spreads a CosMo over devices: tensor parallelism, and the units of FSDP2.

Each part's class in transformers has its own plan, made before the decoder layers were wrapped. This module gives its
rules the wrapped names, adds rules for CosMo's own layers, and drops rules that match nothing. A language model
without a plan (OPT) keeps its layers whole on every device.
"""

import re

from torch import nn

from .configuration_cosmo import CosmoConfig


COLUMNS, ROWS = "colwise", "rowwise"
ATTENTION = {"q_proj": COLUMNS, "k_proj": COLUMNS, "v_proj": COLUMNS, "o_proj": ROWS}
FEED_FORWARD = {"up_proj": COLUMNS, "down_proj": ROWS}


def tensor_parallel_plan(model: nn.Module, config: CosmoConfig, inherited: dict[str, str]) -> dict[str, str]:
    """Styles by module name: heads and inner widths are split, so they must be multiples of the number of devices.

    With `qk_norm` the blocks' attention stays whole: its norm spans all heads.

    Args:
        model: a `CosmoModel`.
        config: its config.
        inherited: rules of its parts, under the parts' own names.
    """
    layers = wrapped_layers(model)
    stock, wrapped = f"{layers}.*.", f"{layers}.*.decoder_layer."
    plan = {re.sub(f"^{re.escape(stock)}", wrapped, name): style for name, style in inherited.items()}
    for place in ("resampler.layers.*", f"{layers}.*.cross_attention", "text_pool"):
        if not (config.qk_norm and "resampler" not in place):
            plan |= {f"{place}.attention.{name}": style for name, style in ATTENTION.items()}
        plan |= {f"{place}.feed_forward.{name}": style for name, style in FEED_FORWARD.items()}
    return _that_name_something(plan, model)


def fully_sharded_plan(model: nn.Module, inherited: dict[str, str]) -> dict[str, str]:
    """Units that gather weights for their own forward: each decoder layer with its block, and other parts' layers."""
    stacks = {_wildcard(name) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    units = [*(f"{stack}.*" for stack in stacks if "*" not in stack), "text_pool"]
    return _that_name_something(inherited | dict.fromkeys(units, "free_full_weight"), model)


def wrapped_layers(model: nn.Module) -> str:
    """Name of the list that holds the wrapped decoder layers."""
    names = (name for name, module in model.named_modules() if "decoder_layer" in module._modules)
    return next(names).rpartition(".")[0]


def _that_name_something(plan: dict[str, str], model: nn.Module) -> dict[str, str]:
    known = {_wildcard(name) for name, _ in model.named_modules()}
    return {name: style for name, style in plan.items() if name in known}


def _wildcard(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
