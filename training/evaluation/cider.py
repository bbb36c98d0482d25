"""CIDEr-D: agreement of a caption with the captions of several people (Vedantam et al., arXiv:1411.5726, section 6).

N-grams that many images share say little and weigh little (TF-IDF). Counts above the reference's are clipped, and a
Gaussian penalises a length that differs from the reference's.
"""

import math
from collections import Counter
from collections.abc import Sequence

from training.evaluation.caption_tokenizer import tokenize_caption


MAX_NGRAM = 4
LENGTH_SIGMA = 6.0  # in words, arXiv:1411.5726 section 6
SCALE = 10.0

Ngram = tuple[str, ...]


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the CIDEr-D of each prediction against its references.

    Document frequencies come from `references` themselves, one document per prediction, so a score depends on the
    whole set and is 0 for a set of one.

    Args:
        predictions: one caption per sample.
        references: human captions of each sample, at least one each.

    Returns:
        One score from 0 to 10 per sample; the corpus score is their mean.

    Raises:
        ValueError: if the two lengths differ, or a sample has no reference.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but references for {len(references)}")
    for sample, captions in enumerate(references):
        if not captions:
            raise ValueError(f"sample {sample} has no reference caption")
    counted = [[_count_ngrams(caption) for caption in captions] for captions in references]
    document_frequency = Counter(ngram for captions in counted for ngram in set().union(*captions))
    weights = {ngram: math.log(len(counted) / count) for ngram, count in document_frequency.items()}
    unseen_weight = math.log(len(counted)) if counted else 0.0
    scores = []
    for prediction, documents in zip(predictions, counted, strict=True):
        candidate = _Vector(_count_ngrams(prediction), weights, unseen_weight)
        similar = [candidate.similarity(_Vector(counts, weights, unseen_weight)) for counts in documents]
        scores.append(SCALE * sum(similar) / len(similar))
    return scores


class _Vector:
    """TF-IDF weights of one caption, one sparse vector per n-gram order."""

    def __init__(self, counts: Counter[Ngram], weights: dict[Ngram, float], unseen_weight: float) -> None:
        self.num_words = sum(count for ngram, count in counts.items() if len(ngram) == 1)
        self.orders: list[dict[Ngram, float]] = [{} for _ in range(MAX_NGRAM)]
        for ngram, count in counts.items():
            self.orders[len(ngram) - 1][ngram] = count * weights.get(ngram, unseen_weight)
        self.norms = [math.sqrt(sum(value * value for value in order.values())) for order in self.orders]

    def similarity(self, reference: "_Vector") -> float:
        """Return the clipped cosine, averaged over the n-gram orders, times the length penalty; from 0 to 1."""
        cosines = 0.0
        for mine, theirs, my_norm, their_norm in zip(
            self.orders, reference.orders, self.norms, reference.norms, strict=True
        ):
            shared = sum(min(value, theirs[ngram]) * theirs[ngram] for ngram, value in mine.items() if ngram in theirs)
            if my_norm and their_norm:
                cosines += shared / (my_norm * their_norm)
        gap = self.num_words - reference.num_words
        return cosines / MAX_NGRAM * math.exp(-(gap**2) / (2 * LENGTH_SIGMA**2))


def _count_ngrams(caption: str) -> Counter[Ngram]:
    """Count each sequence of 1 to 4 words."""
    words = tokenize_caption(caption)
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, MAX_NGRAM + 1)
        for start in range(len(words) - length + 1)
    )
