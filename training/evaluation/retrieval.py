"""Text-video retrieval in the shared space. Axes: N clips and their captions, E shared embedding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.evaluation.media import Media, feature_batches, media_features
from training.evaluation.metrics import RetrievalRecall


@torch.no_grad()
def text_video_similarity(
    model: Any, processor: Any, media: Media, captions: Sequence[str], batch_size: int = 64
) -> NDArray[np.float32]:
    """Return the cosine similarity of every caption (row) and every clip (column), from -1 to 1.

    As in training, the placeholder precedes each caption and the end of chunk follows it.

    Args:
        model: a `CosmoForConditionalGeneration`; left in evaluation mode.
        processor: its processor.
        media: features or frames of the clips, see `training.evaluation.media`.
        captions: texts to search with.
        batch_size: number of clips or captions at once.
    """
    model.eval()
    features = media_features(model, processor, media)
    videos = [
        model.get_video_features(vision_features=batch).pooler_output
        for batch in feature_batches(model, features, batch_size)
    ]
    texts = []
    for start in range(0, len(captions), batch_size):
        words = [processor.interleave([caption]) for caption in captions[start : start + batch_size]]
        tokens = processor.tokenizer(words, padding=True, return_tensors="pt").to(model.device)
        found = model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        texts.append(found.pooler_output)
    return (torch.cat(texts).float() @ torch.cat(videos).float().T).cpu().numpy()


def retrieval_scores(
    model: Any, processor: Any, media: Media, captions: Sequence[str], batch_size: int = 64
) -> dict[str, float]:
    """Return recall at 1 in both directions, from 0 to 1; caption i belongs to clip i.

    Returns:
        `text_to_video_r1`, `video_to_text_r1` and `num`, the number of clips. Chance is 1 / num.
    """
    return recall_both_ways(text_video_similarity(model, processor, media, captions, batch_size))


def recall_both_ways(similarity: NDArray[np.float32]) -> dict[str, float]:
    """Return the same as `retrieval_scores`, from a square matrix with texts as rows."""
    right = [[index] for index in range(len(similarity))]
    recall = lambda scores: RetrievalRecall().compute(predictions=scores.tolist(), references=right)["r1"]
    return {
        "text_to_video_r1": recall(similarity),
        "video_to_text_r1": recall(similarity.T),
        "num": len(similarity),
    }
