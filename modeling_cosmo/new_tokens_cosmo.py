"""Trains the embeddings of CosMo's own tokens while the token table stays frozen.

Frozen embeddings of the new tokens cost OpenFlamingo's small models most of their score (arXiv:2308.01390: VQAv2
17.6 -> 5.5 at 0 shots). A masked gradient on the whole table would leave its other rows to weight decay, and would
keep a gradient and two moments of the table's size. Here the change of the new rows is a parameter of its own, added
where the frozen table and the head are read; saving adds it into the table (docs/decisions/0003).
Shape letters: R text rows, L text length, K new tokens, D_t width of the language model.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init


def check_plain_table(table: nn.Module) -> None:
    """Refuse a token table that does not give its rows as they are: what training adds would be no change of rows.

    Raises:
        ValueError: naming the table's class.
    """
    if type(table).forward is not nn.Embedding.forward:
        raise ValueError(
            f"train_new_tokens is not possible with {type(table).__name__}: it does not give the rows of the token "
            "table as they are, so that trained ones could not be saved in it; set train_new_tokens=False"
        )


class CosmoNewTokens(nn.Module):
    """What training adds to the rows of the new tokens in the token table, and in the head if that is not tied."""

    def __init__(self, token_ids: list[int], width: int, tied: bool) -> None:
        super().__init__()
        self.token_ids = token_ids
        self.input_change = nn.Parameter(torch.zeros(len(token_ids), width))
        self.output_change = None if tied else nn.Parameter(torch.zeros(len(token_ids), width))

    @torch.no_grad()
    def initialise_own_parameters(self) -> None:
        """Begin with the rows as the table holds them."""
        for change in self.parameters():
            init.zeros_(change)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A plain state dict, as of a saved folder, holds the changed rows in its tables."""
        if any(name.startswith(prefix) for name in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args)
        else:
            self.initialise_own_parameters()

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both changes, through a call, before which accelerate's hooks fetch weights that lie on disk."""
        return self.input_change, self.input_change if self.output_change is None else self.output_change

    def embed(self, input_ids: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Change what the frozen table gave.

        Args:
            input_ids: shape `(R, L)`.
            embeddings: of these ids by the table, shape `(R, L, D_t)`.
        """
        slots = torch.zeros_like(input_ids)  # 0: no new token
        for slot, token_id in enumerate(self.token_ids, start=1):
            slots = slots + slot * (input_ids == token_id)
        rows = F.pad(self()[0], (0, 0, 1, 0))  # (1 + K, D_t)
        return embeddings + F.embedding(slots.to(rows.device), rows).to(embeddings)  # (R, L, D_t)

    def score(self, hidden_states: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Change what the frozen head gave, in the same memory.

        Args:
            hidden_states: what the head read, shape `(R, L, D_t)`.
            logits: what it gave, shape `(R, L, vocabulary)`; changed.
        """
        _, change = self()
        columns = torch.stack([torch.full((), token_id, device=logits.device) for token_id in self.token_ids])
        if not torch.compiler.is_compiling() and logits._is_view():  # gathered from a head that is split
            logits = logits.clone()
        return logits.index_add_(-1, columns, F.linear(hidden_states, change.to(hidden_states)).to(logits.device))

    @torch.no_grad()
    def add_into(
        self, state_dict: dict[str, Any], prefix: str, table: str, head: str, *, tied: bool
    ) -> dict[str, Any]:
        """A plain state dict: without the changes of this module, whose table and head hold them.

        Args:
            state_dict: of the whole model; stays as it is.
            prefix: of this module's names in it.
            table: name of the token table in it.
            head: name of the head's weight in it, if there is a head.
            tied: whether the head is the table; one that was freed since then has the table's changes added, too.
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
