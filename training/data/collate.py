"""Turn samples into model inputs. Axes: B batch, L text length, M media, F frames."""

from typing import Any

import torch

from training.data.features import VisualInputs
from training.data.samples import Samples


class Collator:
    """Collator that has the processor write the placeholders, tokenises, pads on the right and adds visual inputs."""

    def __init__(self, processor: Any, visual_inputs: VisualInputs, max_length: int) -> None:
        self.processor, self.visual_inputs, self.max_length = processor, visual_inputs, max_length
        self.visual_token_id = processor.token_ids()["visual_token_id"]

    def __call__(self, samples: Samples) -> dict[str, torch.Tensor]:
        """Build the arguments of the model's forward.

        Returns:
            `input_ids`, `attention_mask`, `labels` (B, L); `media_mask` (B, M, F), False for empty slots and for media
            whose placeholder is beyond `max_length`; `vision_features` or `pixel_values`.
        """
        tokens = self.processor.tokenizer(
            [self.processor.interleave(captions) for captions in samples.captions],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        shown = (ids == self.visual_token_id).sum(dim=-1)  # (B,)
        slots = torch.arange(samples.clips.shape[1])
        media_mask = (slots < shown[:, None])[:, :, None].expand(samples.frames.shape)  # (B, M, F)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": self.processor.build_labels(ids, mask),
            "media_mask": media_mask.contiguous(),
            **self.visual_inputs.read(samples.clips, samples.frames),
        }


def to_device(inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Move a batch to a device; there, half-precision features become float32, as autocast expects."""
    moved = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in moved.items()}
