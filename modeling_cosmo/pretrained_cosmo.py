"""What transformers needs to know about every CosMo model: capabilities, initialisation, checkpointing."""

import copy
from collections.abc import Callable
from os import PathLike, environ
from typing import Any, Self

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_cosmo import initialise_linear
from .configuration_cosmo import CosmoConfig
from .freezing_cosmo import TrainableParts, count_trainable, gated_block
from .hub_cosmo import delete_stale_weights
from .saved_folder_cosmo import remove_stale_files


NOT_QUANTISED = ["lm_head", "model\\.lm_head", r".*\bcross_attention\b", r".*\b(resampler|text_pool|new_tokens)\b",
                 r".*\b(text|vision)_projection\b"]  # fmt: skip
"""Patterns of module names: the head, and what CosMo adds to the towers, since that may be trained."""


class CosmoPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about CosMo models."""

    config_class = CosmoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "video", "text"]  # noqa: RUF012 (declared by transformers)
    supports_gradient_checkpointing = True
    _no_split_modules = ["CosmoDecoderLayer", "CosmoResamplerLayer", "CosmoTextPool"]  # noqa: RUF012 (declared by transformers)
    _skip_keys_device_placement = ["past_key_values", "cross_attention_cache"]  # noqa: RUF012 (declared by transformers)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keys_to_ignore_on_load_missing = [r"\bnew_tokens\."]  # noqa: RUF012 (a saved table holds them)

    @classmethod
    def from_pretrained(cls, *args: Any, quantization_config: Any = None, **kwargs: Any) -> Self:
        """Load like any model of transformers; freeze as the config says, and do not quantise CosMo's own parts."""
        if quantization_config is not None:
            kwargs["quantization_config"] = _sparing_new_parts(quantization_config)
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_as_configured()
        if "disk" in getattr(model, "hf_device_map", {}).values():
            _drop_offloaded_changes(model)
        return loaded

    def freeze_as_configured(self) -> None:
        """Freeze the towers if the config says so."""
        if self.config.freeze_towers:
            self.freeze_towers()

    def freeze_towers(self) -> None:
        """Freeze the towers; each model defines how."""
        raise NotImplementedError

    def trainable_parts(self) -> TrainableParts:
        """Part of the model -> (parameters that train, all its parameters); `print` shows a table."""
        return count_trainable(self)

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
        """Save like any model of transformers, and remove stale files of an earlier save into the same folder."""
        own_class = type(self)
        # FSDP2 puts a class of its own in front of ours, and transformers saves the code of the class that it finds.
        self.__class__ = next(kind for kind in own_class.__mro__ if "_auto_class" in vars(kind))
        try:
            super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        finally:
            self.__class__ = own_class
        if is_main_process and environ.get("RANK", "0") == "0":
            remove_stale_files(save_directory)

    def _upload_modified_files(self, working_dir: str | PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Finish `push_to_hub`: also delete weights of an earlier push that this one did not replace."""
        commit = super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)
        revision = commit.pr_revision or kwargs.get("revision")
        delete_stale_weights(repo_id, working_dir, revision, kwargs.get("token"))
        return commit

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            initialise_linear(module)
        if callable(initialise := getattr(module, "initialise_own_parameters", None)):
            initialise()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialise the gated blocks first: the language model around them would initialise them by its own rules.

        Then initialise the towers, each as a model of the library: as parts of custom code, modules that initialise
        their children's parameters but have none of their own would be skipped.
        """
        for module in self.modules():
            block = gated_block(module)
            for part in () if block is None else block.modules():
                self._initialize_weights(part, self.is_custom_code())
        for child in self.children():
            if isinstance(child, PreTrainedModel):
                child.initialize_weights()
        super().initialize_weights()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, every_n_layers: int = 1
    ) -> None:
        """Checkpoint the wrappers but not also the stock layers inside them, which do not count as layers."""
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func)
        stock = {layer for module in self.modules() if (layer := module._modules.get("decoder_layer")) is not None}
        for layer in stock:
            vars(layer)["_gradient_checkpointing_func"] = _call_directly
        own = (module for module in self.modules() if isinstance(module, GradientCheckpointingLayer))
        for index, layer in enumerate(layer for layer in own if layer not in stock):
            layer.gradient_checkpointing = enable and index % every_n_layers == 0


def _drop_offloaded_changes(model: nn.Module) -> None:
    """Drop changes of new tokens that were offloaded to disk, where no file holds them; after loading they are 0."""
    for module in model.modules():
        new_tokens = module._modules.get("new_tokens")
        if new_tokens is not None and next(new_tokens.parameters()).is_meta:
            module._modules["new_tokens"] = None


def _call_directly(function: Callable[..., Any], *args: Any) -> Any:
    """Stand in for the checkpoint of a layer whose wrapper is recomputed as a whole."""
    return function(*args)


def _sparing_new_parts(quantization_config: Any) -> Any:
    """Give bitsandbytes a list of modules to skip, unless the caller gave one."""
    if getattr(quantization_config, "llm_int8_skip_modules", ()) is not None:
        return quantization_config
    quantization_config = copy.copy(quantization_config)
    quantization_config.llm_int8_skip_modules = NOT_QUANTISED
    return quantization_config
