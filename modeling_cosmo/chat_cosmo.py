"""Chats as texts and media: the chat template, and the media in the parts of a chat."""

from collections.abc import Mapping
from typing import Any

from .tokens_cosmo import END_OF_CHUNK, VISUAL


CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'video') %}" + VISUAL + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}" + CONTENT + END_OF_CHUNK + "{% endgeneration %}"
    "{% else %}" + CONTENT + "{% endif %}{% endfor %}"
)
"""The few-shot form: each medium before its text, each answer closed by the end-of-chunk token; nothing else added."""
PART_KEYS = ("url", "path", "bytes", "base64")
"""Keys that may hold the medium of a part of a chat, besides the name of its type."""


def media_of_chats(conversations: list[Any]) -> tuple[list[list[Any]], list[list[Any]]]:
    """Media of chats in the order of their parts.

    Args:
        conversations: chats, each a list of messages with `content`.

    Returns:
        Pictures and videos of each chat; in each list, `None` marks the place of a medium of the other kind.

    Raises:
        ValueError: if a part is not a text, picture or video.
    """
    images: list[list[Any]] = []
    videos: list[list[Any]] = []
    for conversation in conversations:
        contents = [message.get("content") or [] for message in conversation]
        parts = [part for content in contents if not isinstance(content, str) for part in content]
        media = [(part["type"], medium) for part in parts if (medium := _medium_of(part)) is not None]
        images.append([medium if kind == "image" else None for kind, medium in media])
        videos.append([medium if kind == "video" else None for kind, medium in media])
    return images, videos


def _medium_of(part: dict[str, Any]) -> Any:
    """The medium of a part of a chat; `None` for text, and for a part that is only a placeholder."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind not in ("text", "image", "video"):
        raise ValueError(f"a part of a chat has type {kind!r}; CosmoProcessor reads text, image and video")
    if kind == "text":
        return None
    medium = next((part[key] for key in (kind, *PART_KEYS) if part.get(key) is not None), None)
    times = {name: part[name] for name in ("start_s", "end_s") if part.get(name) is not None}
    return {kind: medium, **times} if times and kind == "video" else medium
