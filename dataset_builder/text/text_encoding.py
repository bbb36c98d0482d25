"""Text files in any encoding: the byte order mark decides, then UTF-8, then a guess by charset-normalizer."""

import codecs

from dataset_builder.errors import DamagedInput


MARKS = (  # that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN, NEARLY = "cp1252", 0.1
"""The Latin code page that wins near ties: its mess may be this much higher (share of characters)."""


def decode_text(raw: bytes) -> tuple[str, str]:
    """Decode a whole text file.

    Returns:
        The text without its mark, and the name of the encoding if it was guessed, else "".

    Raises:
        DamagedInput: for UTF-8, UTF-16 or UTF-32 with damaged bytes, and for bytes that are no text.
    """
    for mark, encoding in MARKS:
        if raw.startswith(mark):
            try:
                return raw.decode(encoding), ""
            except UnicodeDecodeError as error:
                raise _damaged(error, encoding.removesuffix("-sig")) from error
    try:
        return raw.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        encoding = "" if _is_damaged_utf8(raw) else _guess(raw)
        if not encoding:
            raise _damaged(error, "utf-8") from error
    return raw.decode(encoding, "replace"), encoding


def _guess(raw: bytes) -> str:
    from charset_normalizer import from_bytes  # 0.04 s to import, needed by few files

    matches = from_bytes(raw)
    best = matches.best()
    if best is None:
        return ""
    western = next((match for match in matches if WESTERN in match.could_be_from_charset), best)
    if western.chaos > best.chaos + NEARLY or western.coherence < best.coherence:
        return best.encoding
    return WESTERN if WESTERN in western.could_be_from_charset else best.encoding


def _is_damaged_utf8(raw: bytes) -> bool:
    """Most characters beyond ASCII are whole UTF-8: as another encoding all of them would be read wrong."""
    text = raw.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    return sum(not letter.isascii() for letter in text) > 2 * damaged


def _damaged(error: UnicodeDecodeError, encoding: str) -> DamagedInput:
    return DamagedInput(f"subtitles are not {encoding.upper()} text ({error.reason} at byte {error.start})")
