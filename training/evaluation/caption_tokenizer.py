"""Words of a caption as caption metrics count them: Penn Treebank style, lower case, no punctuation.

Published CIDEr values split captions with Stanford's Java PTBTokenizer. One regular expression does the small part
that captions need, so that scores need no Java.
"""

import re


PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
# The reference filter lists its bracket tokens in upper case but gets lower-case text, so brackets count as words.
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
FUSED = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
}
ABBREVIATIONS = r"(?:mr|mrs|ms|dr|st|jr|sr|vs|etc|no|inc|co|prof|gen|sgt|lt|capt|ave|blvd)\."
TOKEN = re.compile(
    rf"""
    n't(?![a-z])                               # is n't
  | '(?:s|m|d|re|ve|ll)(?![a-z])               # dog 's
  | {ABBREVIATIONS}(?=\s)                      # mr. smith
  | (?:[a-z]\.){{2,}}                          # u.s.
  | \d+(?:[.,:]\d+)+                           # 1,000  3.5  4:30
  | [^\W_]+?(?=n't(?![a-z]))                   # is | n't
  | \w+(?:[-&/]\w+)*                           # black-and-white  at&t  and/or
  | \.\.\. | -- | '' | ``
  | \S
    """,
    re.VERBOSE,
)


def tokenize_caption(caption: str) -> list[str]:
    """Return the lower-case words of one caption in order, without punctuation; `[]` for an empty caption."""
    text = caption.lower().replace("\u2019", "'").replace('"', " '' ")
    tokens = [BRACKETS.get(token, token) for token in TOKEN.findall(text)]
    return [word for token in tokens if token not in PUNCTUATION for word in FUSED.get(token, token).split()]
