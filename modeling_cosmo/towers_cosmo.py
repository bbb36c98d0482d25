"""Load pretrained towers and make room for the special tokens of CosMo."""

from os import PathLike
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel


_CHANGES_OF_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Names, in configs of language models, of factors and caps on the head's output."""


class PreTrainedTowers(NamedTuple):
    """The parts of pretrained towers that CosMo uses."""

    vision: PreTrainedModel
    language_model: PreTrainedModel
    """The language model without its head."""
    head: nn.Linear


def load_towers(vision: Any, text: Any, processor: Any, dtype: torch.dtype) -> tuple[PreTrainedTowers, dict[str, Any]]:
    """Load both towers; with a processor, give its special tokens embeddings.

    Args:
        vision: path, id or instance of a model with a vision tower.
        text: path, id or instance of a causal language model.
        processor: a `CosmoProcessor`, or `None`.
        dtype: of weights that are loaded.

    Returns:
        The towers, and the token ids for the config.

    Raises:
        ValueError: if a tower is of an unsupported kind.
    """
    if isinstance(vision, str | PathLike):
        vision = load_vision_tower(vision, dtype)
    if isinstance(text, str | PathLike):
        text = load_language_model(text, dtype)
    _plain_head(text)
    token_ids = {} if processor is None else _add_token_embeddings(text, processor)
    towers = PreTrainedTowers(getattr(vision, "vision_model", vision), text.base_model, _plain_head(text))
    for tower in towers:
        for module in tower.modules():
            module.__dict__["_is_hf_initialized"] = True  # pretrained: not to be initialised again
    return towers, token_ids


def load_language_model(text: str | PathLike[str], dtype: torch.dtype) -> PreTrainedModel:
    """Load a pretrained causal language model with all of its weights.

    Args:
        text: path or id.
        dtype: of the weights.

    Raises:
        ValueError: if its files are damaged, or lack a weight, naming it.
    """
    return _load_whole(AutoModelForCausalLM, text, dtype)


def load_vision_tower(vision: str | PathLike[str], dtype: torch.dtype) -> PreTrainedModel:
    """Load the vision tower of a pretrained model, which may have two towers, with all of its weights.

    Args:
        vision: path or id.
        dtype: of the weights.

    Raises:
        ValueError: if its files are damaged, or lack a weight, naming it.
    """
    model = _load_whole(AutoModel, vision, dtype)
    return getattr(model, "vision_model", model)


def _load_whole(kind: Any, path: str | PathLike[str], dtype: torch.dtype) -> PreTrainedModel:
    try:
        model, info = kind.from_pretrained(path, dtype=dtype, output_loading_info=True)
    except (SafetensorError, RuntimeError) as error:  # a damaged file; shapes that differ from the config's
        raise ValueError(f"the weights of {path} cannot be loaded: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{path} lacks {len(missing)} weights of {type(model).__name__}, among them {missing[0]}")
    return model


def _plain_head(text: PreTrainedModel) -> nn.Linear:
    head = text.get_output_embeddings()
    if text.base_model is text or not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(f"{type(text).__name__} is not a causal language model with a plain linear head without bias")
    if any(getattr(text.config, name, None) not in (None, 0, 1) for name in _CHANGES_OF_LOGITS):
        raise ValueError(f"{type(text).__name__} changes its logits after the head, which CosMo does not reproduce")
    return head


def _add_token_embeddings(text: PreTrainedModel, processor: Any) -> dict[str, Any]:
    """Grow the vocabulary if it is too small, and draw embeddings for tokens that the tower has never seen.

    Each new row is drawn independently from the spread of the known ones: a frozen head that shares the rows could not
    tell identical ones apart.
    """
    tokenizer, config = processor.tokenizer, text.config.get_text_config()
    num_known, num_needed = config.vocab_size, len(tokenizer)
    if num_needed > num_known:
        text.resize_token_embeddings(num_needed, mean_resizing=False)
    untrained = {tokenizer.convert_tokens_to_ids(token) for token in getattr(processor, "_untrained_tokens", ())}
    new_rows = sorted(untrained | set(range(num_known, num_needed)))
    for layer in (text.get_input_embeddings(), text.get_output_embeddings()) if new_rows else ():
        _draw_rows(layer, new_rows)
    return processor.token_ids() | {
        "bos_token_id": config.bos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        "eos_token_id": config.eos_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id,
    }


@torch.no_grad()
def _draw_rows(layer: Any, rows: list[int]) -> None:
    table = layer.weight
    known = table[: rows[0]].float()
    noise = torch.randn(len(rows), table.shape[1], device=table.device)
    table[rows] = (known.mean(dim=0) + known.std(dim=0) * noise).to(table.dtype)
