"""The stage `speech`: what is said in a video, every sentence in one clip."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dataset_builder.draft import Draft, each
from dataset_builder.errors import DamagedInput
from dataset_builder.subtitles import Sentence, Subtitles, read_subtitles


LATE_S = 2.0  # speech that starts up to this long after the video's end still belongs to its last clip
ALIGNMENTS = ("overlap",)


@dataclass(frozen=True, kw_only=True)
class SpeechSettings:
    """Where the speech comes from, and how sentences find their clips."""

    align: str = "overlap"
    """`overlap`: every sentence goes to the clip that it overlaps longest."""

    def __post_init__(self) -> None:
        if self.align not in ALIGNMENTS:
            raise ValueError(f"align is {self.align!r}; expected one of {', '.join(ALIGNMENTS)}")


class SpeechStage:
    """Reads what is said and gives each sentence to one clip."""

    def __init__(self, settings: SpeechSettings) -> None:
        self.settings = settings

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos whose clips have their `asr`."""
        return each(drafts, self._attach)

    def _attach(self, draft: Draft) -> Draft:
        subtitles, facts = Subtitles(), dict[str, Any](tool="none")
        if draft.source.subtitles is not None:
            facts = {"tool": "subtitles", "file": draft.source.subtitles.name}
            try:
                subtitles = read_subtitles(draft.source.subtitles)
            except DamagedInput as error:  # a video goes on without damaged subtitles
                subtitles = Subtitles(fault=str(error))
            if subtitles.fault:
                draft = draft.with_fault(draft.source.subtitles, subtitles.fault)
        said = attach_speech(subtitles.sentences, draft.spans)
        clips = [replace(clip, asr=text) for clip, text in zip(draft.record.clips, said, strict=True)]
        return draft.with_clips(clips).noted("speech", facts)


def attach_speech(sentences: Sequence[Sentence], clips: Sequence[tuple[float, float]]) -> list[str]:
    """What is said in each clip: every sentence goes to the one clip it overlaps longest, ties to the earlier.

    A sentence beside all clips goes to the nearest one, up to `LATE_S` away; farther ones belong to none.

    Args:
        sentences: in time order.
        clips: `(start_s, end_s)`, in time order.

    Returns:
        One text per clip, its sentences joined by a space.
    """
    texts: list[list[str]] = [[] for _ in clips]
    for sentence in sentences:
        overlaps = [min(sentence.end_s, end_s) - max(sentence.start_s, start_s) for start_s, end_s in clips]
        best = max(range(len(clips)), key=overlaps.__getitem__)
        if overlaps[best] > -LATE_S:  # a negative overlap is the distance
            texts[best].append(sentence.text)
    return [" ".join(text) for text in texts]
