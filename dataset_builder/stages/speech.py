"""The stage `speech`: assign every sentence that is said in a video to one clip."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from dataset_builder.draft import Draft, LeftOut, each, positive
from dataset_builder.errors import DamagedInput
from dataset_builder.text.attach import Attached, EmbedTexts, attach_by_content, attach_by_overlap
from dataset_builder.text.personal_data import find_personal_data
from dataset_builder.text.subtitles import Sentence, Subtitles, lists_beside, read_subtitles


ALIGNMENTS = ("overlap", "content")


@dataclass(frozen=True, kw_only=True)
class SpeechSettings:
    """The source of the speech, and how sentences are assigned to clips.

    Subtitle files next to a video (WebVTT, SRT, or JSON lists as in HowTo100M) always come first.
    """

    captions: str | None = None
    """One JSON file for the whole collection, like HowTo100M's caption.json: `{ID: {"start", "end", "text"}}`."""
    checkpoint: str | None = None
    """Folder or id of a Whisper model that transcribes videos without subtitles; null: these have no speech."""
    language: str | None = None
    """checkpoint: code of the spoken language, such as `en`; null: the model detects it."""
    align: str = "overlap"
    """`overlap`: a sentence goes to the clip that it overlaps longest. `content`: to the nearby clip that matches it
    best under `segment.tower`, whose text half must know such words."""
    reach_s: float = 2.0
    """content: how far from a sentence its clip may be, in seconds."""
    phrase_words: int = 3
    """content: a sentence is compared in phrases of this many words each; the best match counts."""
    off_topic_below: float | None = None
    """content: a sentence with a lower cosine to every clip in reach is off topic and left out; null: off."""

    def __post_init__(self) -> None:
        positive(self, "reach_s", "phrase_words")
        if self.align not in ALIGNMENTS:
            raise ValueError(f"align is {self.align!r}; expected one of {', '.join(ALIGNMENTS)}")
        if self.off_topic_below is not None and self.align != "content":
            raise ValueError("off_topic_below is for align: content")
        if self.language is not None and self.checkpoint is None:
            raise ValueError("language is for a checkpoint")


class Listener(Protocol):
    """Transcribes the speech of a video."""

    def provenance(self) -> dict[str, Any]:
        """Tool, version, weights."""
        ...

    def __call__(self, video: Path) -> Sequence[Sentence]:
        """Sentences in time order; none if nothing is said.

        Raises:
            DamagedInput: if the sound cannot be decoded.
        """
        ...


class SpeechStage:
    """Reads or transcribes the speech and assigns each sentence to one clip.

    Args:
        settings: the source of the speech, and the alignment.
        tower: its text half compares sentences with clips, for align: content.
    """

    def __init__(self, settings: SpeechSettings, tower: str | None) -> None:
        self.settings = settings
        self._listen: Listener | None = None
        self._embed_texts: EmbedTexts | None = None
        if settings.checkpoint:
            from dataset_builder.models.whisper import WhisperListener  # torch and transformers take seconds

            self._listen = WhisperListener(settings.checkpoint, settings.language)
        if settings.align == "content":
            from dataset_builder.models.embed import load_tower
            from dataset_builder.models.embed_text import TextEmbedder

            if tower is None:
                raise ValueError("speech.align: content compares with segment.tower, but the recipe has none")
            self._embed_texts = TextEmbedder(load_tower(tower))

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos whose clips have their `asr`."""
        return each(drafts, self._attach)

    def _attach(self, draft: Draft) -> Draft:
        draft, sentences, facts = self._sentences_of(draft)
        attached = self._align(draft, sentences)
        clips = [replace(clip, asr=text) for clip, text in zip(draft.record.clips, attached.texts, strict=True)]
        facts["align"] = self.settings.align
        left_out = tuple(
            LeftOut(start_s=one.start_s, end_s=one.end_s, reason=_reason(one)) for one in attached.off_topic
        )
        if left_out:  # without the words, which may be personal
            facts["left_out"] = [[one.start_s, one.end_s, one.reason] for one in left_out]
        return replace(draft, left_out=left_out).with_clips(clips).noted("speech", facts)

    def _sentences_of(self, draft: Draft) -> tuple[Draft, Sequence[Sentence], dict[str, Any]]:
        """The sentences and their source; damaged subtitles or sound do not stop the video."""
        path = draft.source.subtitles or lists_beside(draft.source)
        if path is None:
            if self._listen is None:
                return draft, (), {"tool": "none"}
            try:
                return draft, self._listen(draft.source.path), self._listen.provenance()
            except DamagedInput as error:
                return draft.with_fault(draft.source.path, str(error)), (), {"tool": "none"}
        try:
            subtitles = read_subtitles(path)
        except DamagedInput as error:
            subtitles = Subtitles(fault=str(error))
        if subtitles.fault:
            draft = draft.with_fault(path, subtitles.fault)
        facts = {"tool": "subtitles", "file": path.name}
        if subtitles.encoding:
            facts["guessed_encoding"] = subtitles.encoding
        return draft, subtitles.sentences, facts

    def _align(self, draft: Draft, sentences: Sequence[Sentence]) -> Attached:
        if self._embed_texts is None:
            return attach_by_overlap(sentences, draft.spans)
        assert draft.clip_embeddings is not None  # `segment` has run
        return attach_by_content(
            sentences,
            draft.spans,
            draft.clip_embeddings,
            self._embed_texts,
            phrase_words=self.settings.phrase_words,
            reach_s=self.settings.reach_s,
            off_topic_below=self.settings.off_topic_below,
        )


def _reason(sentence: Sentence) -> str:
    """The reason for leaving out a sentence about nothing that is shown."""
    kind = find_personal_data(sentence.text)
    return f"personal data: {kind}" if kind else "off-topic speech"
