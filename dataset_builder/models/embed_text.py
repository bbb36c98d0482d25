"""Embeddings of captions, from the text half of the CLIP- or SigLIP-type tower whose picture half embeds frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BatchEncoding

from dataset_builder.models.embed import TowerEmbedder
from dataset_builder.models.model_folders import first_line


BATCH = 64
FIXED_LENGTH_TYPES = ("siglip", "siglip2")  # trained on texts padded to the full context, without a mask


class TextEmbedder:
    """The text half of a tower that is already loaded, with its tokenizer.

    Args:
        tower: the picture half, with its model.

    Raises:
        ValueError: if the tower has no text half, or no tokenizer next to its weights.
    """

    def __init__(self, tower: TowerEmbedder) -> None:
        self._model, self._device, name = tower.model, tower.device, tower.place.name
        if not hasattr(self._model, "get_text_features"):
            raise ValueError(f"the tower {name!r} is a {type(self._model).__name__}, which reads no text")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(tower.place.location, **tower.place.options)
        except Exception as error:  # each library raises its own types
            raise ValueError(f"cannot load the tokenizer of the tower {name!r}: {first_line(error)}") from error
        if len(self._tokenizer) <= len(self._tokenizer.all_special_ids):  # transformers made it without any file
            raise ValueError(f"the tower {name!r} has no tokenizer next to its weights")
        config = self._model.config.text_config
        self.max_tokens: int = config.max_position_embeddings
        self._fixed_length = self._model.config.model_type in FIXED_LENGTH_TYPES
        # CLIP pools at the first end token. With a tokenizer that begins each text with that token (the toy tower's),
        # every text would be pooled before its first word.
        begin = self._tokenizer("a")["input_ids"][0]
        self._end_id = config.eos_token_id if begin == config.eos_token_id and not self._fixed_length else None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-length embeddings of texts, each cut off at the tower's context length.

        Returns:
            float32, shape `(len(texts), D)`.
        """
        embedded = []
        with torch.inference_mode():
            for first in range(0, len(texts), BATCH):
                inputs = self._inputs(texts[first : first + BATCH]).to(self._device)
                features = self._model.get_text_features(**inputs).pooler_output.float()
                embedded.append(torch.nn.functional.normalize(features, dim=-1).cpu().numpy())
        return np.concatenate(embedded)

    def _inputs(self, texts: Sequence[str]) -> BatchEncoding:
        """Token ids, and a mask if the tower was trained with one."""
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_tokens}
        if self._fixed_length:
            tokens = self._tokenizer(list(texts), padding="max_length", return_tensors="pt", **options)
            return BatchEncoding({"input_ids": tokens["input_ids"]})
        if self._end_id is None:
            tokens = self._tokenizer(list(texts), padding=True, return_tensors="pt", **options)
        else:
            options |= {"max_length": self.max_tokens - 1, "add_special_tokens": False}
            ids = [[*row, self._end_id] for row in self._tokenizer(list(texts), **options)["input_ids"]]
            tokens = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        return BatchEncoding({key: tokens[key] for key in ("input_ids", "attention_mask")})
