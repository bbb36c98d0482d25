"""Detect the language of a text by its script and its most common words: no model, no download.

Limits: it distinguishes scripts, and the languages of words/function_words.yaml. A text without any such word (a list
of nouns, two words) gives no evidence and passes as the expected language; related languages that are not listed
(Catalan, Afrikaans) pass as their neighbours.
"""

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

import yaml


WORDS = Path(__file__).parents[1] / "words" / "function_words.yaml"
LEAST_LEAD = 0.1  # share of the words by which another language must lead before a text counts as being in it
_WORD = re.compile(r"[^\W\d_]+")


@lru_cache(maxsize=1)
def function_words() -> dict[str, frozenset[str]]:
    """Language code -> its most common words."""
    listed = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    # YAML 1.1 reads a bare no (and in other files yes, on, off) as a boolean
    return {
        language: frozenset("no" if word is False else "on" if word is True else word for word in words)
        for language, words in listed.items()
    }


def other_language(text: str, expected: str) -> str | None:
    """The language or script of a text, if it is clearly not the expected one; else None.

    Args:
        text: any text.
        expected: a code of `function_words`; all of these are written in Latin letters.
    """
    letters = [letter for letter in text if letter.isalpha()]
    foreign = [letter for letter in letters if not _is_latin(letter)]
    if len(foreign) > len(letters) / 2:
        return unicodedata.name(foreign[0], "unknown").split()[0].lower()
    words = _WORD.findall(text.lower())
    if not words:
        return None
    shares = {
        language: sum(word in known for word in words) / len(words) for language, known in function_words().items()
    }
    best = max(shares, key=lambda language: (shares[language], language == expected))
    return best if shares[best] - shares[expected] >= LEAST_LEAD else None


@lru_cache(maxsize=4096)
def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN")
