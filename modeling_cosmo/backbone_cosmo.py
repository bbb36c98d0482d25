"""What CosMo must know about language models of transformers whose own code stays as it is.

Most hand the keyword arguments of their call on to every decoder layer, so that media reach the gated blocks as
arguments. A few drop them; for those the arguments lie beside the call, for as long as it runs.
"""

from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


DROPS_ARGUMENTS = frozenset({"bloom", "falcon", "gpt_neo", "mpt"})
"""Kinds of language models (`model_type`) whose layers get no further arguments and return a tuple; tested each."""

_beside_the_call: ContextVar[dict[str, Any] | None] = ContextVar("arguments of the layers", default=None)


def run_language_model(language_model: PreTrainedModel, for_layers: dict[str, Any], **kwargs: Any) -> Any:
    """Run a language model and get `for_layers` to each `CosmoDecoderLayer` in it.

    Args:
        language_model: with wrapped decoder layers.
        for_layers: keyword arguments of `CosmoDecoderLayer`, among them a `LayerTap` as `tap`.
        kwargs: arguments of the language model itself.

    Raises:
        ValueError: if they did not arrive: such a model would ignore its media without a word.
    """
    if language_model.config.model_type in DROPS_ARGUMENTS:
        token = _beside_the_call.set(for_layers)
        try:
            outputs = language_model(**kwargs)
        finally:
            _beside_the_call.reset(token)
    else:
        outputs = language_model(**kwargs, **for_layers)
    if for_layers["tap"].first_input is None:
        raise ValueError(
            f"{type(language_model).__name__} does not hand keyword arguments on to its decoder layers, so media "
            "cannot reach them: CosMo needs a language model that does"
        )
    return outputs


def arguments_beside_the_call() -> dict[str, Any]:
    """What a layer gets whose language model dropped its arguments; nothing outside `run_language_model`."""
    return _beside_the_call.get() or {}


class QueryKeyNormedProjection(nn.Linear):
    """The fused projection of an MPT attention with a norm on queries and on keys, before heads are split.

    MPT-1B has these norms (`attn_config.qk_ln`); the MPT of transformers reads the setting and ignores it.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width, bias=False)
        self.q_norm = nn.LayerNorm(width, bias=False)
        self.k_norm = nn.LayerNorm(width, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Shape `(R, L, D)` -> queries, keys and values, `(R, L, 3 * D)`."""
        query, key, value = super().forward(hidden_states).chunk(3, dim=-1)
        return torch.cat([self.q_norm(query), self.k_norm(key), value], dim=-1)


def complete_backbone(language_model: PreTrainedModel, *, is_pretrained: bool) -> None:
    """Put in what a language model's config asks for and transformers leaves out.

    Args:
        language_model: changed in place.
        is_pretrained: it holds loaded weights, which such parts would be missing from.

    Raises:
        ValueError: if it lost weights in loading.
    """
    config = language_model.config
    if config.model_type != "mpt" or not config.attn_config.qk_ln:
        return
    if is_pretrained:
        raise ValueError(
            f"{type(language_model).__name__} of transformers drops the norms on queries and keys (attn_config.qk_ln) "
            "when it loads; such a tower comes with a converted OpenFlamingo-3B only"
        )
    for module in language_model.modules():
        if hasattr(module, "Wqkv"):
            module.Wqkv = QueryKeyNormedProjection(config.hidden_size)
