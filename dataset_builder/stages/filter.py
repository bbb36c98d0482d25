"""The stage `filter`: mark clips that are not worth keeping, with a reason. The build counts the reasons."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from dataset_builder.compare.misplaced import find_misplaced
from dataset_builder.draft import Draft, LeftOut, each, positive, share
from dataset_builder.schema import Clip
from dataset_builder.text.language import function_words, other_language
from dataset_builder.text.personal_data import find_personal_data
from dataset_builder.text.text_filters import find_sensitive_word, repeated_share


VERSION = 1
EMPTY = "empty caption"


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """Which clips are marked as not worth keeping. They stay in the corpus, with a reason."""

    min_clip_s: float = 0.0
    """Shorter clips are dropped, in seconds."""
    min_caption_words: int = 1
    """Captions of fewer words are dropped; 0 keeps empty ones."""
    black_below: float = 0.0
    """A clip is black if even its brightest sampled frame has a mean below this grey level (0-255); 0: off."""
    static_below: float = 0.0
    """A clip of several frames is static if no two neighbours differ by this many grey levels on average; 0: off."""
    drop_repeated_captions: bool = True
    """Drop a clip that has the same caption as an earlier clip of the video."""
    min_similarity: float | None = None
    """Clips with a lower cosine to their caption are dropped; the scale depends on score's tower; null: off."""
    misplaced_margin: float | None = None
    """A clip goes if the best matching gives its caption to another clip with a cosine this much higher; null: off."""
    max_caption_words: int | None = None
    """Captions of more words are dropped; null: off."""
    language: str | None = None
    """Captions that are clearly in another language or script are dropped; one of en, de, fr, es, it, pt, nl."""
    max_repeated_share: float | None = None
    """A caption goes if more than this share of its runs of three words occur in it twice; null: off."""
    drop_sensitive: bool = False
    """Drop clips whose caption or speech has a word from words/sensitive_en.txt, or from the file below."""
    sensitive_words: str | None = None
    """File with more words for drop_sensitive, one per line."""
    drop_personal_data: bool = False
    """Drop clips whose caption or speech has an e-mail address, a user name, a telephone, card or account number."""

    def __post_init__(self) -> None:
        share(self, "max_repeated_share")
        positive(self, "max_caption_words")
        if self.language is not None and self.language not in function_words():
            raise ValueError(f"language is {self.language!r}; expected one of {', '.join(function_words())}")
        if self.sensitive_words is not None:
            if not self.drop_sensitive:
                raise ValueError("sensitive_words is for drop_sensitive: true")
            find_sensitive_word("", self.sensitive_words)  # raises an error if the file cannot be read

    @property
    def needs_scores(self) -> bool:
        """Whether the stage `score` has to run first."""
        return self.min_similarity is not None or self.misplaced_margin is not None


class FilterStage:
    """Marks the clips that a filter rejects."""

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos whose rejected clips have `keep: false` and a reason."""
        return each(drafts, self._judge)

    def _judge(self, draft: Draft) -> Draft:
        sampled = draft.sampled
        assert sampled is not None  # `segment` has run
        levels = measure_frame_levels(sampled.brightness, sampled.changes, draft.spans, sampled.rate_hz)
        margin, misplaced = self.settings.misplaced_margin, dict[int, int]()
        if margin is not None:
            misplaced = find_misplaced(draft.record.similarity_matrix, margin)
        judged = filter_clips(draft.record.clips, levels, self.settings, misplaced)
        return draft.with_clips(_with_speech_left_out(judged, draft.left_out)).noted("filter", {"version": VERSION})


@dataclass(frozen=True)
class Drop:
    """A filter's verdict: drop the clip for this reason. The same cause always has the same text."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class FrameLevels:
    """Grey levels of a clip's sampled frames, from 0 to 255."""

    brightest: float
    """Mean grey level of its brightest frame."""
    largest_change: float | None
    """Largest mean absolute difference between neighbouring frames; None for a single frame."""


ClipFilter = Callable[[Clip, FrameLevels], Drop | None]


def measure_frame_levels(
    brightness: np.ndarray, changes: np.ndarray, clips: Sequence[tuple[float, float]], frame_rate_hz: float
) -> list[FrameLevels]:
    """Collect the grey levels of each clip's frames.

    Args:
        brightness: mean grey level of every sampled frame, shape `(N,)`.
        changes: mean absolute difference of every sampled frame from the previous one (the first: 0), shape `(N,)`.
        clips: `(start_s, end_s)` of every clip.
        frame_rate_hz: rate of the sampled frames.
    """
    levels = []
    for start_s, end_s in clips:
        first = min(int(start_s * frame_rate_hz + 0.5), len(brightness) - 1)
        last = min(max(int(end_s * frame_rate_hz + 0.5), first + 1), len(brightness))
        moves = changes[first + 1 : last]
        levels.append(
            FrameLevels(
                brightest=float(brightness[first:last].max()),
                largest_change=float(moves.max()) if len(moves) else None,
            )
        )
    return levels


def make_filters(settings: FilterSettings) -> list[ClipFilter]:
    """The filters of a recipe, in the order in which they judge a clip; the first reason counts."""
    return [
        lambda clip, _: _too_short(clip, settings.min_clip_s),
        lambda _, levels: _black(levels, settings.black_below),
        lambda _, levels: _static(levels, settings.static_below),
        lambda clip, _: _few_words(clip, settings.min_caption_words),
        lambda clip, _: _many_words(clip, settings.max_caption_words),
        lambda clip, _: _personal(clip) if settings.drop_personal_data else None,
        lambda clip, _: _sensitive(clip, settings.sensitive_words) if settings.drop_sensitive else None,
        lambda clip, _: _foreign(clip, settings.language),
        lambda clip, _: _repetitive(clip, settings.max_repeated_share),
        lambda clip, _: _unlike(clip, settings.min_similarity),
    ]


def filter_clips(
    clips: Sequence[Clip],
    levels: Sequence[FrameLevels],
    settings: FilterSettings,
    misplaced: Mapping[int, int] = MappingProxyType({}),
) -> list[Clip]:
    """The same clips, with `keep: false` and a reason for those that a filter rejects.

    Args:
        clips: all clips of one video; a clip dropped by an earlier stage keeps that stage's reason.
        levels: grey levels of each clip's frames.
        settings: what to reject.
        misplaced: index of a caption that belongs elsewhere -> index of that clip.
    """
    filters, said, judged = make_filters(settings), set[str](), []
    for index, (clip, of_clip) in enumerate(zip(clips, levels, strict=True)):
        if not clip.keep:
            judged.append(clip)
            continue
        drop = next((verdict for judge in filters if (verdict := judge(clip, of_clip))), None)
        if index in misplaced and (drop is None or drop == _unlike(clip, settings.min_similarity)):
            drop = Drop(f"caption belongs to another clip: {misplaced[index]}")  # tells more than a low similarity
        if drop is None and settings.drop_repeated_captions and clip.caption and clip.caption in said:
            drop = Drop("caption repeats an earlier clip's")
        if drop is None:
            said.add(clip.caption)
        judged.append(replace(clip, keep=drop is None, drop_reason=drop.reason if drop else ""))
    return judged


def drop_all(clips: Iterable[Clip], reason: str) -> list[Clip]:
    """Reject all clips for one reason (a duplicate video)."""
    return [replace(clip, keep=False, drop_reason=reason) for clip in clips]


def _too_short(clip: Clip, min_clip_s: float) -> Drop | None:
    return Drop(f"clip shorter than {min_clip_s:g} s") if clip.end_s - clip.start_s < min_clip_s - 1e-6 else None


def _black(levels: FrameLevels, black_below: float) -> Drop | None:
    return Drop("black clip") if levels.brightest < black_below else None


def _static(levels: FrameLevels, static_below: float) -> Drop | None:
    still = levels.largest_change is not None and levels.largest_change < static_below
    return Drop("static clip") if still else None


def _few_words(clip: Clip, min_words: int) -> Drop | None:
    num_words = len(clip.caption.split())
    if num_words >= min_words:
        return None
    return Drop(f"caption shorter than {min_words} words" if num_words else EMPTY)


def _unlike(clip: Clip, min_similarity: float | None) -> Drop | None:
    if min_similarity is None or clip.similarity is None or clip.similarity >= min_similarity:
        return None
    return Drop(f"similarity below {min_similarity:g}")


def _many_words(clip: Clip, max_words: int | None) -> Drop | None:
    if max_words is None or len(clip.caption.split()) <= max_words:
        return None
    return Drop(f"caption longer than {max_words} words")


def _personal(clip: Clip) -> Drop | None:
    kind = next((kind for text in texts_of(clip) if (kind := find_personal_data(text))), None)
    return Drop(f"personal data: {kind}") if kind else None


def _sensitive(clip: Clip, more: str | None) -> Drop | None:
    word = next((word for text in texts_of(clip) if (word := find_sensitive_word(text, more))), None)
    return Drop(f"sensitive word: {word}") if word else None


def _foreign(clip: Clip, language: str | None) -> Drop | None:
    found = other_language(clip.caption, language) if language else None
    return Drop(f"caption in another language: {found}") if found else None


def _repetitive(clip: Clip, max_share: float | None) -> Drop | None:
    if max_share is None or repeated_share(clip.caption) <= max_share:
        return None
    return Drop("caption repeats itself")


def texts_of(clip: Clip) -> list[str]:
    """All texts of a clip that a reader of the corpus sees."""
    return [clip.caption, clip.asr, *clip.frame_captions, *clip.regions]


def _with_speech_left_out(clips: Sequence[Clip], left_out: Sequence[LeftOut]) -> list[Clip]:
    """For clips without a caption because their speech was left out, give the reason for leaving out the speech."""
    said = [(one.start_s, one.end_s, one.reason) for one in left_out]
    result = []
    for clip in clips:
        reasons = [reason for start_s, end_s, reason in said if start_s < clip.end_s and end_s > clip.start_s]
        empty = clip.drop_reason == EMPTY and reasons
        result.append(replace(clip, drop_reason=reasons[0]) if empty else clip)
    return result
