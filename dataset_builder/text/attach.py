"""Assign sentences to clips: by time alone, or by what the clips show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dataset_builder.text.subtitles import Sentence


LATE_S = 2.0  # speech that starts up to this long after the video's end still belongs to its last clip
OVERLAP_WEIGHT = 0.02  # cosine that a second of overlap is worth: decides between clips that look the same
EmbedTexts = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Attached:
    """The sentences of a video, assigned to its clips."""

    texts: list[str]
    """Speech of each clip, sentences joined by a space."""
    off_topic: list[Sentence] = field(default_factory=list)
    """Sentences about nothing that is shown near them."""


def attach_by_overlap(sentences: Sequence[Sentence], clips: Sequence[tuple[float, float]]) -> Attached:
    """Assign every sentence to the clip that it overlaps longest, ties to the earlier clip, as the released data does.

    A sentence that overlaps no clip goes to the nearest one, up to `LATE_S` away, else to none.

    Args:
        sentences: in time order.
        clips: `(start_s, end_s)`, in time order.
    """
    texts: list[list[str]] = [[] for _ in clips]
    for sentence in sentences:
        overlaps = overlaps_of(sentence, clips)
        best = int(overlaps.argmax())
        if overlaps[best] > -LATE_S:  # a negative overlap is the distance
            texts[best].append(sentence.text)
    return Attached(texts=[" ".join(text) for text in texts])


def attach_by_content(
    sentences: Sequence[Sentence],
    clips: Sequence[tuple[float, float]],
    clip_embeddings: np.ndarray,
    embed_texts: EmbedTexts,
    *,
    phrase_words: int,
    reach_s: float,
    off_topic_below: float | None,
) -> Attached:
    """Assign every sentence to the nearby clip that matches it best; people speak early and late.

    A contrastive tower knows short captions, not spoken language, so the score of a sentence is that of its
    best-matching phrase. Between clips that look the same, the longer overlap decides.

    Args:
        sentences: in time order.
        clips: `(start_s, end_s)`, in time order.
        clip_embeddings: unit length, shape `(C, D)`.
        embed_texts: unit-length embeddings in the same space, `(T, D)`.
        phrase_words: length of the phrases.
        reach_s: how far from a sentence its clip may be.
        off_topic_below: a sentence with a lower cosine to every clip in reach belongs to none; None: off.
    """
    phrases = [phrases_of(sentence.text, phrase_words) for sentence in sentences]
    distinct = sorted({phrase for of_one in phrases for phrase in of_one})
    if not distinct:
        return Attached(texts=[""] * len(clips))
    rows = {phrase: row for row, phrase in enumerate(distinct)}
    alike = embed_texts(distinct) @ clip_embeddings.T.astype(np.float32)  # (phrases, C)
    texts: list[list[str]] = [[] for _ in clips]
    off_topic = []
    for sentence, of_one in zip(sentences, phrases, strict=True):
        overlaps = overlaps_of(sentence, clips)
        in_reach = overlaps > -reach_s
        if not of_one or not in_reach.any():
            continue
        scores = np.where(in_reach, alike[[rows[phrase] for phrase in of_one]].max(axis=0), -np.inf)  # (C,)
        if off_topic_below is not None and scores.max() < off_topic_below:
            off_topic.append(sentence)
            continue
        texts[int((scores + OVERLAP_WEIGHT * overlaps).argmax())].append(sentence.text)
    return Attached(texts=[" ".join(text) for text in texts], off_topic=off_topic)


def overlaps_of(sentence: Sentence, clips: Sequence[tuple[float, float]]) -> np.ndarray:
    """Seconds that a sentence shares with each clip; negative: the distance between them."""
    return np.array([min(sentence.end_s, end_s) - max(sentence.start_s, start_s) for start_s, end_s in clips])


def phrases_of(text: str, num_words: int) -> list[str]:
    """All runs of `num_words` words; the whole text if it is shorter."""
    words = text.split()
    last = max(1, len(words) - num_words + 1)
    return [" ".join(words[first : first + num_words]) for first in range(last)] if words else []
