"""Ways to run language models of transformers with media, without changing their code.

Most models pass the keyword arguments of a call on to every decoder layer, so media reach the gated blocks as
arguments. A few models drop them; for those, a context variable holds the arguments while the call runs.
"""

from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


DROPS_ARGUMENTS = frozenset({"bloom", "falcon", "gpt_neo", "mpt"})
"""`model_type` of language models whose layers get no extra arguments and return a tuple; each is tested."""

_beside_the_call: ContextVar[dict[str, Any] | None] = ContextVar("arguments of the layers", default=None)


def run_language_model(language_model: PreTrainedModel, for_layers: dict[str, Any], **kwargs: Any) -> Any:
    """Run a language model and pass `for_layers` to every `CosmoDecoderLayer` in it.

    Args:
        language_model: with wrapped decoder layers.
        for_layers: keyword arguments of `CosmoDecoderLayer`, among them a `LayerTap` as `tap`.
        kwargs: arguments of the language model itself.

    Raises:
        ValueError: if they did not arrive: such a model would silently ignore its media.
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
            f"{type(language_model).__name__} does not pass keyword arguments on to its decoder layers, so media "
            "cannot reach them: CosMo needs a language model that does"
        )
    return outputs


def arguments_beside_the_call() -> dict[str, Any]:
    """Arguments for a layer whose language model dropped them; empty outside `run_language_model`."""
    return _beside_the_call.get() or {}


class QueryKeyNormedProjection(nn.Linear):
    """Fused projection of MPT's attention, with norms on queries and keys before the heads are split.

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
    """Add the parts that a language model's config asks for but transformers leaves out.

    Args:
        language_model: changed in place.
        is_pretrained: whether it holds loaded weights, from which those parts are missing.

    Raises:
        ValueError: if loading dropped weights.
    """
    config = language_model.config
    if config.model_type != "mpt" or not config.attn_config.qk_ln:
        return
    if is_pretrained:
        raise ValueError(
            f"{type(language_model).__name__} of transformers drops the norms on queries and keys (attn_config.qk_ln) "
            "when it loads; only a converted OpenFlamingo-3B holds such a tower"
        )
    for module in language_model.modules():
        if hasattr(module, "Wqkv"):
            module.Wqkv = QueryKeyNormedProjection(config.hidden_size)
