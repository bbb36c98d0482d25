"""Captions of clips, written by the model without demonstrations."""

from typing import Any

import torch

from training.evaluation.media import Media, feature_batches, media_features


@torch.no_grad()
def caption_clips(
    model: Any, processor: Any, media: Media, prompt: str = "", max_new_tokens: int = 32, batch_size: int = 32
) -> list[str]:
    """Caption each clip greedily: the text after `<visual>` and the prompt, up to `<|endofchunk|>`.

    Args:
        model: a `CosmoForConditionalGeneration`; left in evaluation mode.
        processor: its processor.
        media: features or frames of N clips, see `training.evaluation.media`.
        prompt: start of every caption; not part of the result.
        max_new_tokens: maximum length of a caption, in tokens.
        batch_size: number of clips at once.

    Returns:
        N captions without special tokens or outer spaces.
    """
    model.eval()
    features = media_features(model, processor, media)
    tokens = processor.tokenizer([processor.interleave([], prompt=prompt)], return_tensors="pt").to(model.device)
    prompt_length = tokens["input_ids"].shape[1]
    ends = {model.config.end_of_chunk_token_id, processor.tokenizer.eos_token_id} - {None}
    captions: list[str] = []
    for batch in feature_batches(model, features, batch_size):
        written = model.generate(
            input_ids=tokens["input_ids"].expand(len(batch), -1),
            attention_mask=tokens["attention_mask"].expand(len(batch), -1),
            vision_features=batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        captions += processor.tokenizer.batch_decode(written[:, prompt_length:], skip_special_tokens=True)
    return [caption.strip() for caption in captions]
