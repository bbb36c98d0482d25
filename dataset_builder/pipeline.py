"""From one input video to one record: probe, segment, speech, caption, filter. Tools are loaded once."""

from typing import Any, NamedTuple

import av
import numpy as np

from dataset_builder.caption import Captioner, SpeechCaptioner, TruthCaptioner
from dataset_builder.caption_checkpoint import CheckpointCaptioner
from dataset_builder.embed import TowerEmbedder, load_embeddings
from dataset_builder.errors import DamagedInput
from dataset_builder.filter import filter_clips, look_at_clips
from dataset_builder.frames import FrameFit, FrameSampler
from dataset_builder.inputs import SourceVideo
from dataset_builder.recipe import CaptionSettings, Recipe
from dataset_builder.schema import Clip, InterleavedVideo
from dataset_builder.segment import segment_video
from dataset_builder.speech import Subtitles, attach_speech, read_subtitles


FRAME_BATCH = 64
SMALL = FrameFit(height_px=64, width_px=64)  # enough to see black and still clips where no tower sets the size


class Watched(NamedTuple):
    """What one pass over a video's sampled frames leaves."""

    embeddings: np.ndarray | None
    """float32, shape `(N, D)`; None where the recipe reads them from files."""
    brightness: np.ndarray
    """Mean grey level, 0 to 255, shape `(N,)`."""
    changes: np.ndarray
    """Mean absolute difference to the frame before, in grey levels, shape `(N,)`; the first is 0."""


class VideoPipeline:
    """Turns input videos into records by one recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.embedder = None if recipe.segment.tower is None else TowerEmbedder(recipe.segment.tower)
        self.captioner = make_captioner(recipe.caption, recipe.seed)
        self._provenance: dict[str, Any] = {
            "segment": {
                "tool": "kts",
                "version": 1,
                "frame_rate_hz": recipe.segment.frame_rate_hz,
                "frames_per_segment": recipe.segment.frames_per_segment,
                "penalty": recipe.segment.penalty,
                "embeddings": self.embedder.provenance() if self.embedder else {"tool": "files"},
            },
            "caption": self.captioner.provenance(),
        }

    def __call__(self, source: SourceVideo) -> tuple[InterleavedVideo, str]:
        """The video's record, without bytes, and what is wrong with its subtitles (empty: nothing).

        Raises:
            DamagedInput: where the video or what the captioner needs of it cannot be read.
        """
        settings = self.recipe.segment
        sampler = FrameSampler(
            source.path, settings.frame_rate_hz, self.embedder.fit if self.embedder else SMALL, FRAME_BATCH
        )
        watched = self._watch(sampler)
        embeddings = watched.embeddings
        if embeddings is None:
            embeddings = load_embeddings(str(settings.embeddings), source.video_id, len(watched.brightness))
        spans = segment_video(embeddings, sampler.duration_s, settings)
        subtitles, fault = _subtitles_of(source)
        speech = attach_speech(subtitles.sentences, spans)
        captions = self.captioner(source, spans, speech)
        clips = [
            Clip(
                start_s=start_s, end_s=end_s, asr=said, caption=caption.caption, frame_captions=caption.frame_captions
            )
            for (start_s, end_s), said, caption in zip(spans, speech, captions, strict=True)
        ]
        looks = look_at_clips(watched.brightness, watched.changes, spans, settings.frame_rate_hz)
        record = InterleavedVideo(
            video_id=source.video_id,
            video_path=source.stored_path,
            duration_s=sampler.duration_s,
            source=self.recipe.source,
            license=self.recipe.license,
            clips=tuple(filter_clips(clips, looks, self.recipe.filter)),
            provenance=self._provenance_of(source, sampler),
        )
        return record, fault

    def _watch(self, sampler: FrameSampler) -> Watched:
        """Decode once; frames are embedded batch by batch and forgotten."""
        embeddings, brightness, changes = [], [], []
        last: np.ndarray | None = None
        for frames in sampler:
            if self.embedder:
                embeddings.append(self.embedder(frames))
            brightness.append(frames.mean(axis=(1, 2, 3)))
            neighbours = np.concatenate([frames[:1] if last is None else last, frames]).astype(np.int16)
            changes.append(np.abs(np.diff(neighbours, axis=0)).mean(axis=(1, 2, 3)))
            last = frames[-1:]
        return Watched(
            np.concatenate(embeddings) if embeddings else None, np.concatenate(brightness), np.concatenate(changes)
        )

    def _provenance_of(self, source: SourceVideo, sampler: FrameSampler) -> dict[str, Any]:
        facts = sampler.facts.as_dict()
        speech = {"tool": "subtitles", "file": source.subtitles.name} if source.subtitles else {"tool": "none"}
        return {"probe": {"tool": "av", "version": av.__version__} | facts, "speech": speech} | self._provenance


def make_captioner(settings: CaptionSettings, seed: int) -> Captioner:
    """The captioner that a recipe names."""
    if settings.captioner == "truth":
        return TruthCaptioner(noise=settings.noise, seed=seed)
    if settings.captioner == "speech":
        return SpeechCaptioner()
    assert settings.checkpoint is not None  # the recipe refuses captioner: checkpoint without one
    return CheckpointCaptioner(settings.checkpoint, settings.prompt, settings.max_new_tokens)


def _subtitles_of(source: SourceVideo) -> tuple[Subtitles, str]:
    """The subtitles beside a video, and what is wrong with them; a video goes on without damaged ones."""
    if source.subtitles is None:
        return Subtitles(), ""
    try:
        subtitles = read_subtitles(source.subtitles)
    except DamagedInput as error:
        return Subtitles(), str(error)
    return subtitles, subtitles.fault
