"""Measures by which a filter rejects the caption or speech of a clip: repetition and sensitive words."""

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path


SHIPPED = Path(__file__).parents[1] / "words" / "sensitive_en.txt"
REPEAT_WORDS = 3  # length of the runs whose repetition is counted


def repeated_share(text: str, num_words: int = REPEAT_WORDS) -> float:
    """Share of a text's runs of words, from 0 to 1, that occur more than once.

    In a text of fewer than twice as many words, single words are counted instead of runs.
    """
    words = text.lower().split()
    length = num_words if len(words) >= 2 * num_words else 1
    runs = Counter(tuple(words[first : first + length]) for first in range(len(words) - length + 1))
    total = sum(runs.values())
    return sum(count for count in runs.values() if count > 1) / total if total else 0.0


def find_sensitive_word(text: str, more: str | None) -> str | None:
    """The first listed word in a text, spelled as in the list.

    Args:
        text: any text.
        more: file with more words, in the format of the shipped list.

    Raises:
        ValueError: if the file cannot be read.
    """
    pattern, listed = _sensitive_words(more)
    match = pattern.search(" ".join(text.lower().split()))
    return listed[match.lastindex - 1] if match and match.lastindex else None


@lru_cache(maxsize=4)
def _sensitive_words(more: str | None) -> tuple[re.Pattern[str], list[str]]:
    listed = _read_words(SHIPPED) + (_read_words(Path(more)) if more else [])
    patterns = [re.escape(word.rstrip("*")) + (r"\w*" if word.endswith("*") else "") for word in listed]
    return re.compile("|".join(rf"(?<!\w)({pattern})(?!\w)" for pattern in patterns)), listed


def _read_words(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the words of filter.sensitive_words: {path} ({error})") from error
    words = [" ".join(line.split("#")[0].lower().split()) for line in lines]
    return [word for word in words if word]
