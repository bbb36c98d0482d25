"""Recognise unusable captions from a model. The stages ask such a model again, and drop the clip if that fails too."""

import re


LETTER = re.compile(r"[^\W\d_]")
REPEATS = 3
LONGEST_PHRASE = 6  # words; longer repeated passages are caught by their share of new words
LEAST_NEW_WORDS = 0.3


def find_nonsense(text: str, max_words: int) -> str | None:
    """Why a text cannot be a caption; None if it can.

    Args:
        text: a model's answer.
        max_words: a longer answer cannot be a caption.
    """
    words = text.lower().split()
    if not words:
        return "empty"
    if not LETTER.search(text):
        return "no words"
    if len(words) > max_words:
        return f"over {max_words} words"
    return "repeats itself" if repeats_itself(words) else None


def repeats_itself(words: list[str]) -> bool:
    """Whether a phrase occurs three times in a row, or a long text has few different words."""
    for length in range(1, LONGEST_PHRASE + 1):
        for first in range(len(words) - REPEATS * length + 1):
            phrase = words[first : first + length]
            if all(words[first + k * length : first + (k + 1) * length] == phrase for k in range(1, REPEATS)):
                return True
    return len(words) >= 20 and len(set(words)) < LEAST_NEW_WORDS * len(words)
