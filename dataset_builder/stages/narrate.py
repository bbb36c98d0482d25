"""The stage `narrate`: one caption per clip that continues from the previous clip, written by a chat model.

The model gets the speech, the captions of `look` and the previous caption as JSON, and its instructions from a file
(prompts/). Every answer, good or not, is kept on disk (call_cache.py), so that a second build gets the same words and
pays nothing.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset_builder.draft import Draft, each, positive
from dataset_builder.models.chat import Answer, ChatModel, ModelUnavailable, NoAnswer
from dataset_builder.schema import Clip
from dataset_builder.text.nonsense import find_nonsense


PROMPTS = Path(__file__).parents[1] / "prompts"
MAX_FIELD_CHARACTERS = 4000
"""Longest speech or captions of a clip that the model gets: one clip must not cost as much as a book."""
MAX_ANSWER_CHARACTERS = 20_000
FAILURES_IN_A_ROW = 20
"""After this many clips in a row without an answer, the clips are not to blame and the build stops."""


@dataclass(frozen=True, kw_only=True)
class NarrateSettings:
    """The chat model that writes the captions."""

    checkpoint: str | None = None
    """Folder or id of a chat model that runs on this machine, through transformers."""
    endpoint: str | None = None
    """Or the address of an OpenAI-compatible server, up to `/v1`: vLLM, or a service."""
    model: str | None = None
    """endpoint: its name for the model."""
    api_key_variable: str | None = None
    """endpoint: environment variable that holds the key; the key itself is never in a recipe or a corpus."""
    prompt_file: str = "narrate"
    """A shipped prompt (`dataset_builder/prompts/NAME.md`), or a file of your own."""
    max_new_tokens: int = 200
    """The longest answer, in tokens."""
    token_limit_field: str = "max_tokens"
    """endpoint: the name of that limit in a request; OpenAI's newer models expect `max_completion_tokens`."""
    temperature: float | None = 0.0
    """endpoint: temperature of the first attempt; null leaves it to the endpoint."""
    max_words: int = 100
    """A longer caption counts as nonsense."""
    attempts: int = 4
    """How often the model is asked about a clip before the clip is dropped."""
    timeout_s: float = 120.0
    """Longest time for one answer, in seconds."""
    requests_per_minute: float | None = None
    """endpoint: limit for all workers of a machine together; null: as fast as it answers."""
    input_price: float | None = None
    """endpoint: price of a million tokens of questions, in your currency; the summary adds up the cost."""
    output_price: float | None = None
    """endpoint: price of a million tokens of answers."""
    cache: str | None = None
    """Folder for the answers; null: `cosmo/calls` in the user's cache folder (XDG_CACHE_HOME)."""

    def __post_init__(self) -> None:
        positive(self, "max_new_tokens", "max_words", "attempts", "timeout_s", "requests_per_minute")
        if (self.checkpoint is None) == (self.endpoint is None):
            raise ValueError("give one of checkpoint and endpoint")
        if (self.endpoint is None) != (self.model is None):
            raise ValueError("endpoint and model belong together")
        if self.endpoint is not None:
            from dataset_builder.models.chat_endpoint import check_endpoint

            check_endpoint(self.endpoint)
        find_prompt(self.prompt_file)


RUN_KEYS = (
    "endpoint",
    "api_key_variable",
    "timeout_s",
    "requests_per_minute",
    "input_price",
    "output_price",
    "cache",
)
"""Settings for where and how fast the answers come, not for their content: changing one does not redo any outcome."""


def find_prompt(name_or_file: str) -> Path:
    """A shipped prompt by its name, or a file.

    Raises:
        ValueError: if there is none.
    """
    for path in (PROMPTS / f"{name_or_file}.md", Path(name_or_file)):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in PROMPTS.glob("*.md")))
    raise ValueError(f"no prompt {name_or_file!r}: neither a file nor one of the shipped {names}")


def prompt_hash(name_or_file: str) -> str:
    """Sixteen hex digits that change with the prompt's text."""
    return hashlib.sha256(find_prompt(name_or_file).read_bytes()).hexdigest()[:16]


class NarrateStage:
    """Writes the captions of a video, clip after clip."""

    def __init__(self, settings: NarrateSettings) -> None:
        from dataset_builder.models.call_cache import CallCache

        self.settings = settings
        self.chat, self.cached = make_chat(settings), CallCache(cache_folder(settings))
        self.prompt = find_prompt(settings.prompt_file).read_text(encoding="utf-8")
        self._failures = 0

    def provenance(self) -> dict[str, Any]:
        """Model, prompt and its hash, limits."""
        prompt = {
            "prompt": Path(self.settings.prompt_file).stem,
            "prompt_hash": prompt_hash(self.settings.prompt_file),
        }
        limits = {key: getattr(self.settings, key) for key in ("max_words", "attempts")}
        return self.chat.provenance() | prompt | limits

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos whose clips have captions; clips for which the model has no usable caption are dropped."""
        return each(drafts, self._narrate)

    def _narrate(self, draft: Draft) -> Draft:
        clips, previous, spent = list[Clip](), "", Counter[str](requests=0, input_tokens=0, output_tokens=0)
        for index, clip in enumerate(draft.record.clips):
            if clip.keep:
                material = describe(clip, index, len(draft.record.clips), previous)
                try:
                    clip = replace(clip, caption=self._caption(material, spent) if material else "")
                except NoAnswer as error:
                    clip = replace(clip, keep=False, drop_reason=f"no usable narration: {error}")
                else:
                    if not material:
                        clip = replace(clip, keep=False, drop_reason="nothing to narrate from")
                previous = clip.caption or previous
            clips.append(clip)
        return draft.with_clips(clips).noted("narrate", self.provenance() | {"spent": dict(spent)})

    def _caption(self, material: str, spent: Counter[str]) -> str:
        """The first usable caption of several attempts.

        Raises:
            NoAnswer: if there was none.
        """
        fault = ""
        for attempt in range(self.settings.attempts):
            answer = self._ask(material, attempt)
            spent.update(requests=1, input_tokens=answer.input_tokens, output_tokens=answer.output_tokens)
            try:
                caption = read_caption(answer.text)
            except ValueError as error:
                fault = str(error)
                continue
            fault = find_nonsense(caption, self.settings.max_words) or ""
            if not fault:
                return caption
        raise NoAnswer(fault)

    def _ask(self, material: str, attempt: int) -> Answer:
        """An answer from the cache or the model; stops the build if no question gets an answer any more."""
        question = {"model": self.chat.provenance(), "system": self.prompt, "user": material, "attempt": attempt}
        try:
            answer = self.cached(question, lambda: self.chat(self.prompt, material, attempt))
        except NoAnswer as error:
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                raise ModelUnavailable(f"narrate: {self._failures} clips in a row got no answer: {error}") from error
            raise
        self._failures = 0
        return answer


def make_chat(settings: NarrateSettings) -> ChatModel:
    """The chat model that a recipe names.

    Raises:
        ValueError: if it cannot be loaded, or its key is missing.
    """
    if settings.checkpoint is not None:
        from dataset_builder.models.chat_transformers import TransformersChat  # torch and transformers take seconds

        return TransformersChat(settings.checkpoint, settings.max_new_tokens, settings.timeout_s)
    from dataset_builder.models.chat_endpoint import EndpointChat
    from dataset_builder.models.rate_limit import RateLimit

    assert settings.endpoint is not None  # the settings refuse it
    assert settings.model is not None
    rate = settings.requests_per_minute
    return EndpointChat(
        endpoint=settings.endpoint,
        model=settings.model,
        max_new_tokens=settings.max_new_tokens,
        token_limit_field=settings.token_limit_field,
        temperature=settings.temperature,
        timeout_s=settings.timeout_s,
        attempts=settings.attempts,
        api_key_variable=settings.api_key_variable,
        rate_limit=RateLimit(cache_folder(settings) / "next_request", rate) if rate else None,
    )


def cache_folder(settings: NarrateSettings) -> Path:
    """The folder in which the answers are kept."""
    if settings.cache is not None:
        return Path(settings.cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cosmo" / "calls"


def describe(clip: Clip, index: int, num_clips: int, previous: str) -> str:
    """The facts about a clip for the model, as JSON; empty if there is neither speech nor a caption."""
    if not (clip.asr or clip.frame_captions or clip.regions):
        return ""
    material = {
        "clip": index + 1,
        "of": num_clips,
        "previous_caption": previous,
        "frame_captions": _cut(clip.frame_captions),
        "regions": _cut(clip.regions),
        "speech": clip.asr[:MAX_FIELD_CHARACTERS],
    }
    return json.dumps(material, ensure_ascii=False)


def read_caption(text: str) -> str:
    """The caption in a model's answer: from the last JSON object in it, whatever is around it.

    Raises:
        ValueError: if there is no object `{"caption": "..."}`; the message is a reason.
    """
    text = text.rsplit("</think>", 1)[-1]  # drops the reasoning that some models write first
    text, fault = text[-MAX_ANSWER_CHARACTERS:], "answer is not JSON"
    for start in reversed([match.start() for match in re.finditer(r"\{", text)]):
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start:])
        except (ValueError, RecursionError):
            continue
        caption = found.get("caption") if isinstance(found, dict) else None
        if not isinstance(caption, str):
            fault = "answer without a caption"
            continue
        readable = caption.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be stored
        return " ".join("".join(sign for sign in readable if sign.isprintable() or sign.isspace()).split())
    raise ValueError(fault)


def price(settings: NarrateSettings, spent: Counter[str]) -> float | None:
    """The cost of the answers; None if the recipe has no prices."""
    if settings.input_price is None and settings.output_price is None:
        return None
    prices = {"input_tokens": settings.input_price or 0.0, "output_tokens": settings.output_price or 0.0}
    return sum(spent[kind] * price / 1e6 for kind, price in prices.items())


def _cut(texts: Iterable[str]) -> list[str]:
    """As many of the texts as fit."""
    kept, room = list[str](), MAX_FIELD_CHARACTERS
    for text in texts:
        room -= len(text)
        if room < 0:
            break
        kept.append(text)
    return kept
