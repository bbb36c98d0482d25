"""The stage `filter`: which clips are not worth keeping, and why. The build counts the reasons."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dataset_builder.draft import Draft, each
from dataset_builder.schema import Clip


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """Which clips are marked as not worth keeping. They stay in the corpus, with their reason."""

    min_clip_s: float = 0.0
    """Shorter clips are dropped, in seconds."""
    min_caption_words: int = 1
    """Captions of fewer words are dropped; 0 keeps empty ones."""
    black_below: float = 0.0
    """A clip whose brightest sampled frame has a mean below this grey level (0-255) is black; 0: off."""
    static_below: float = 0.0
    """A clip of several frames is static if no two neighbours differ by this many grey levels on average; 0: off."""
    drop_repeated_captions: bool = True
    """Drop a clip whose caption an earlier clip of the same video has."""


class FilterStage:
    """Marks the clips that a filter rejects."""

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos whose rejected clips have `keep: false` and the reason."""
        return each(drafts, self._judge)

    def _judge(self, draft: Draft) -> Draft:
        sampled = draft.sampled
        assert sampled is not None  # `segment` has run
        looks = look_at_clips(sampled.brightness, sampled.changes, draft.spans, sampled.rate_hz)
        return draft.with_clips(filter_clips(draft.record.clips, looks, self.settings))


@dataclass(frozen=True)
class Drop:
    """A filter's verdict: the clip goes, for this reason. Reasons are the same text for the same cause."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the sampled frames of a clip look like, in grey levels from 0 to 255."""

    brightest: float
    """Mean grey level of its brightest frame."""
    largest_change: float | None
    """Largest mean absolute difference between neighbouring frames; None for a single frame."""


ClipFilter = Callable[[Clip, Look], Drop | None]


def look_at_clips(
    brightness: np.ndarray, changes: np.ndarray, clips: Sequence[tuple[float, float]], frame_rate_hz: float
) -> list[Look]:
    """Collect what each clip's frames look like.

    Args:
        brightness: mean grey level of every sampled frame, shape `(N,)`.
        changes: mean absolute difference of every sampled frame to the one before (the first: 0), shape `(N,)`.
        clips: `(start_s, end_s)` of every clip.
        frame_rate_hz: rate of the sampled frames.
    """
    looks = []
    for start_s, end_s in clips:
        first = min(int(start_s * frame_rate_hz + 0.5), len(brightness) - 1)
        last = min(max(int(end_s * frame_rate_hz + 0.5), first + 1), len(brightness))
        moves = changes[first + 1 : last]
        looks.append(
            Look(
                brightest=float(brightness[first:last].max()),
                largest_change=float(moves.max()) if len(moves) else None,
            )
        )
    return looks


def make_filters(settings: FilterSettings) -> list[ClipFilter]:
    """The filters that a recipe asks for, in the order in which they are asked; the first reason stands."""
    return [
        lambda clip, _: _too_short(clip, settings.min_clip_s),
        lambda _, look: _black(look, settings.black_below),
        lambda _, look: _static(look, settings.static_below),
        lambda clip, _: _few_words(clip, settings.min_caption_words),
    ]


def filter_clips(clips: Sequence[Clip], looks: Sequence[Look], settings: FilterSettings) -> list[Clip]:
    """The same clips, those that a filter rejects with `keep: false` and the reason."""
    filters, said, judged = make_filters(settings), set[str](), []
    for clip, look in zip(clips, looks, strict=True):
        drop = next((verdict for judge in filters if (verdict := judge(clip, look))), None)
        if drop is None and settings.drop_repeated_captions and clip.caption and clip.caption in said:
            drop = Drop("caption repeats an earlier clip's")
        if drop is None:
            said.add(clip.caption)
        judged.append(replace(clip, keep=drop is None, drop_reason=drop.reason if drop else ""))
    return judged


def drop_all(clips: Iterable[Clip], reason: str) -> list[Clip]:
    """All clips rejected for one reason (a duplicate video)."""
    return [replace(clip, keep=False, drop_reason=reason) for clip in clips]


def count_reasons(clips: Iterable[Clip]) -> Counter[str]:
    """How many clips each reason dropped; what follows a colon is detail and is not counted apart."""
    return Counter(clip.drop_reason.split(":")[0] for clip in clips if not clip.keep)


def _too_short(clip: Clip, min_clip_s: float) -> Drop | None:
    return Drop(f"clip shorter than {min_clip_s:g} s") if clip.end_s - clip.start_s < min_clip_s - 1e-6 else None


def _black(look: Look, black_below: float) -> Drop | None:
    return Drop("black clip") if look.brightest < black_below else None


def _static(look: Look, static_below: float) -> Drop | None:
    still = look.largest_change is not None and look.largest_change < static_below
    return Drop("static clip") if still else None


def _few_words(clip: Clip, min_words: int) -> Drop | None:
    num_words = len(clip.caption.split())
    if num_words >= min_words:
        return None
    return Drop(f"caption shorter than {min_words} words" if num_words else "empty caption")
