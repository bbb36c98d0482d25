"""Collate samples of texts and media, as a data set yields them, into a training batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class CosmoDataCollator:
    """The `data_collator` of a `Trainer` whose data set yields texts and media; the loss covers all text.

    Pass `remove_unused_columns=False` to the `Trainer`: it knows the model's inputs, not the columns they come from.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Prepare a batch, padded on the right.

        Args:
            samples: each with `text`, which has a `<visual>` for every medium, and with `images`, `videos` or both:
                lists of media as `CosmoProcessor` takes them.

        Returns:
            The output of the processor, and `labels` (B, L), where padding, placeholders and the first token do not
            count. A batch of texts alone gets one empty media slot per sample, so that every process computes the
            same parts of the model.

        Raises:
            ValueError: if placeholders and media of a sample differ in number, or a medium cannot be read.
        """
        kinds = [kind for kind in ("images", "videos") if any(sample.get(kind) is not None for sample in samples)]
        media = {kind: [[] if sample.get(kind) is None else sample[kind] for sample in samples] for kind in kinds}
        batch = dict(self.processor(text=[sample["text"] for sample in samples], **media, padding_side="right"))
        if "pixel_values" not in batch:
            batch |= self._empty_slots(len(samples))
        return batch | {"labels": self.processor.build_labels(batch["input_ids"], batch["attention_mask"])}

    def _empty_slots(self, num_samples: int) -> dict[str, torch.Tensor]:
        """Pixels and mask of one absent medium per sample."""
        blank = self.processor(images=[[torch.zeros(3, 8, 8, dtype=torch.uint8)]])["pixel_values"]
        pixels = blank.new_zeros(num_samples, *blank.shape[1:])  # (B, 1, 1, 3, height, width)
        return {"pixel_values": pixels, "media_mask": torch.zeros(pixels.shape[:3], dtype=torch.bool)}
