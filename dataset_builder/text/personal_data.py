"""Patterns of personal data in captions and speech.

They find what is written in its usual form. What is spelled out ("jane at example dot org"), names and addresses are
not found; a number that merely looks like a card or an account has to pass its checksum first.
"""

import re


_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)
_URL_WITH_USER = re.compile(
    r"\w+://[^\s/@]+@\S+"  # scheme://user:password@host
    r"|(?:https?://|www\.)?(?:instagram|facebook|twitter|x|tiktok|linkedin|t|vk|snapchat)\.(?:com|me)/(?:in/|add/)?@?[\w.-]{2,}",
    re.IGNORECASE,
)
_HANDLE = re.compile(r"(?<![\w@./])@[A-Za-z_][\w.]{2,}")
_DIGITS = r"\+?\(?\d(?:[\s().-]{0,2}\d){6,14}(?!\d)"
_PHONE = re.compile(
    r"(?<![\w.])\+\d(?:[\s().-]{0,2}\d){6,14}(?!\w)"  # international
    r"|(?<![\w.])\(?\d{3}\)?[\s.-]\d{3}[\s.-]\d{4}(?!\w)"  # 555 010 1234
    rf"|\b(?:call|phone|telephone|tel|dial|mobile|cell|whatsapp|text me|fax|reach me)\b\W+(?:\w+\W+){{0,3}}?{_DIGITS}",
    re.IGNORECASE,
)
_LONG_NUMBER = re.compile(r"(?<!\w)\d(?:[ -]?\d){12,18}(?!\w)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
_SOCIAL_SECURITY = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")


def find_personal_data(text: str) -> str | None:
    """The kind of personal data that a text holds (the first of: address with a user, e-mail, ...), None for none."""
    if _URL_WITH_USER.search(text):
        return "address with a user"
    if _EMAIL.search(text):
        return "e-mail"
    if any(_is_iban(match[0]) for match in _IBAN.finditer(text)):
        return "IBAN"
    if any(_is_card(match[0]) for match in _LONG_NUMBER.finditer(text)):
        return "card number"
    if _SOCIAL_SECURITY.search(text):
        return "social security number"
    if _PHONE.search(text):
        return "phone number"
    return "user name" if _HANDLE.search(text) else None


def _is_card(text: str) -> bool:
    """Luhn's checksum, which the numbers of cards pass."""
    digits = [int(letter) for letter in text if letter.isdigit()][::-1]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


def _is_iban(text: str) -> bool:
    """ISO 13616: with the first four characters at the end and letters as numbers, the remainder by 97 is 1."""
    compact = text.replace(" ", "")
    while len(compact) >= 15:  # words in capitals behind it were taken for a part
        if int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1:
            return True
        compact = compact[:-1]
    return False
