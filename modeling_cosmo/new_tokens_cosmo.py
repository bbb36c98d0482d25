"""Train the embeddings of CosMo's own tokens while the token table stays frozen.

Frozen embeddings of the new tokens cost OpenFlamingo's small models most of their score (arXiv:2308.01390: VQAv2
17.6 -> 5.5 at 0 shots). With a masked gradient on the whole table, weight decay would still change the other rows, and
a gradient and two moments of the table's size would stay in memory. Here the change of the new rows is a separate
parameter, added to what the frozen table and the head return; saving adds it into the table (docs/decisions/0003).
Shape letters: R text rows, L text length, K new tokens, D_t width of the language model.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init


def check_plain_table(table: nn.Module) -> None:
    """Refuse a token table that does not return its rows unchanged: the trained change could not be saved in it.

    Raises:
        ValueError: naming the table's class.
    """
    if type(table).forward is not nn.Embedding.forward:
        raise ValueError(
            f"train_new_tokens is not possible with {type(table).__name__}: it does not return the rows of the token "
            "table unchanged, so trained rows could not be saved in it; set train_new_tokens=False"
        )


class CosmoNewTokens(nn.Module):
    """Trained change of the new tokens' rows in the token table, and in the head if it is not tied."""

    def __init__(self, token_ids: list[int], width: int, tied: bool) -> None:
        super().__init__()
        self.token_ids = token_ids
        self.input_change = nn.Parameter(torch.zeros(len(token_ids), width))
        self.output_change = None if tied else nn.Parameter(torch.zeros(len(token_ids), width))

    @torch.no_grad()
    def initialise_own_parameters(self) -> None:
        """Start with no change to the rows."""
        for change in self.parameters():
            init.zeros_(change)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the change; a plain state dict, as in a saved folder, has none and holds changed rows in its tables."""
        if any(name.startswith(prefix) for name in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args)
        else:
            self.initialise_own_parameters()

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both changes; this is a call so that accelerate's hooks can first fetch weights from disk."""
        return self.input_change, self.input_change if self.output_change is None else self.output_change

    def embed(self, input_ids: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Add the change to what the frozen table returned.

        Args:
            input_ids: shape `(R, L)`.
            embeddings: of these ids, from the table, shape `(R, L, D_t)`.
        """
        slots = torch.zeros_like(input_ids)  # 0: not a new token
        for slot, token_id in enumerate(self.token_ids, start=1):
            slots = slots + slot * (input_ids == token_id)
        rows = F.pad(self()[0], (0, 0, 1, 0))  # (1 + K, D_t)
        return embeddings + F.embedding(slots.to(rows.device), rows).to(embeddings)  # (R, L, D_t)

    def score(self, hidden_states: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Add the change to what the frozen head returned, in the same memory.

        Args:
            hidden_states: input of the head, shape `(R, L, D_t)`.
            logits: output of the head, shape `(R, L, vocabulary)`; changed in place.
        """
        _, change = self()
        columns = torch.stack([torch.full((), token_id, device=logits.device) for token_id in self.token_ids])
        if not torch.compiler.is_compiling() and logits._is_view():  # gathered from a split head
            logits = logits.clone()
        return logits.index_add_(-1, columns, F.linear(hidden_states, change.to(hidden_states)).to(logits.device))

    @torch.no_grad()
    def add_into(
        self, state_dict: dict[str, Any], prefix: str, table: str, head: str, *, tied: bool
    ) -> dict[str, Any]:
        """Make a plain state dict, which holds the changes in its table and head instead of in this module.

        Args:
            state_dict: of the whole model; it is not changed.
            prefix: of this module's names in it.
            table: name of the token table in it.
            head: name of the head's weight in it, if there is a head.
            tied: whether the head is the table; a head that was untied since gets the table's change too.
        """
        plain = {name: value for name, value in state_dict.items() if not name.startswith(prefix)}
        of_head = "input_change" if self.output_change is None else "output_change"
        for name, change in ((table, "input_change"), *([] if tied else [(head, of_head)])):
            if name in plain and prefix + change in state_dict:
                rows = plain[name] = plain[name].clone()
                rows[self.token_ids] += state_dict[prefix + change].to(rows)
        if tied and head in plain:
            plain[head] = plain[table]
        return plain
