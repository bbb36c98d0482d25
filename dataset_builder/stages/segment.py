"""The stage `segment`: sample a video once, at an even rate, and cut it into consecutive clips.

Borders come from kernel temporal segmentation of the frames' embeddings (kts.py). Optionally, they move to nearby hard
cuts (cuts.py), and neighbours that look alike are joined again, as Panda-70M does after cutting.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from dataset_builder.compare.kts import kts
from dataset_builder.draft import Draft, Sampled, each, positive
from dataset_builder.schema import Clip
from dataset_builder.video.frames import FrameFit, FrameSampler
from dataset_builder.video.limits import ProbeSettings


FRAME_BATCH = 64
SMALL = FrameFit(height_px=64, width_px=64)  # enough to recognise black and static clips if no tower sets the size
WINDOW = 1200  # sampled frames; longer videos are cut window by window: the cost of KTS grows with their square


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """How a video is cut into clips: kernel temporal segmentation (KTS) on embeddings of sampled frames."""

    tower: str | None = "toy"
    """Folder of a CLIP- or SigLIP-type model whose embeddings of frames are compared; `toy` is the shipped one."""
    embeddings: str | None = None
    """Folder with one `VIDEO_ID.npy` (N, D) per video, made elsewhere at the same rate, instead of a tower."""
    frame_rate_hz: float
    """Frames sampled per second of video."""
    frames_per_segment: float
    """At most one segment per this many sampled frames."""
    penalty: float
    """Cost of a border (`vmax` in the literature): larger gives fewer clips; 0 gives as many as allowed."""
    min_clip_s: float = 0.0
    """Shortest clip, in seconds (a shorter video is one clip)."""
    max_clip_s: float | None = None
    """Longest clip, in seconds; null: no limit."""
    snap_to_cuts_s: float = 0.0
    """A border moves to a hard cut up to this many seconds away; 0: off. Needs the extra `scenes` (scenedetect)."""
    stitch_above: float | None = None
    """Neighbours whose mean embeddings have at least this cosine are joined (up to max_clip_s); null: off."""

    def __post_init__(self) -> None:
        positive(self, "frame_rate_hz", "frames_per_segment")
        if self.penalty < 0 or self.min_clip_s < 0 or self.snap_to_cuts_s < 0:
            raise ValueError("penalty, min_clip_s and snap_to_cuts_s must not be negative")
        if self.stitch_above is not None and not -1 <= self.stitch_above <= 1:
            raise ValueError(f"stitch_above is {self.stitch_above}; expected a cosine from -1 to 1")
        if (self.tower is None) == (self.embeddings is None):
            raise ValueError("give one of tower and embeddings (set the other to null)")
        shortest_s = max(self.min_clip_s, 1 / self.frame_rate_hz)
        if self.max_clip_s is not None and self.max_clip_s < 2 * shortest_s:
            raise ValueError(
                f"max_clip_s is {self.max_clip_s}, but clips of at least {shortest_s:g} s (min_clip_s, or one frame) "
                f"fill every length only if max_clip_s is at least {2 * shortest_s:g}"
            )


class SegmentStage:
    """Samples frames, embeds them, finds the borders."""

    def __init__(self, settings: SegmentSettings, limits: ProbeSettings) -> None:
        from dataset_builder.models.embed import (
            load_tower,
        )  # torch and transformers take seconds; reading a recipe needs none

        self.settings, self.limits = settings, limits
        self.embedder = None if settings.tower is None else load_tower(settings.tower)
        if settings.snap_to_cuts_s:
            from dataset_builder.video.cuts import load_scenedetect

            load_scenedetect()

    def provenance(self) -> dict[str, Any]:
        """Tool, version, settings, weights."""
        facts: dict[str, Any] = {
            "tool": "kts",
            "version": 1,
            "frame_rate_hz": self.settings.frame_rate_hz,
            "frames_per_segment": self.settings.frames_per_segment,
            "penalty": self.settings.penalty,
            "embeddings": self.embedder.provenance() if self.embedder else {"tool": "files"},
        }
        if self.settings.snap_to_cuts_s:
            from dataset_builder.video.cuts import provenance

            facts["cuts"] = provenance() | {"snap_to_cuts_s": self.settings.snap_to_cuts_s}
        if self.settings.stitch_above is not None:
            facts["stitch_above"] = self.settings.stitch_above
        return facts

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Videos with clips that have only times, with their sampled frames and the clips' embeddings."""
        return each(drafts, self._segment)

    def _segment(self, draft: Draft) -> Draft:
        source, settings = draft.source, self.settings
        fit = self.embedder.fit if self.embedder else SMALL
        sampler = FrameSampler(source.path, settings.frame_rate_hz, fit, FRAME_BATCH, self.limits)
        sampled = self._watch(sampler, source.video_id)
        spans = segment_video(sampled.embeddings, sampler.duration_s, settings)
        if settings.snap_to_cuts_s:
            from dataset_builder.video.cuts import find_cuts

            shortest_s = max(settings.min_clip_s, 1 / settings.frame_rate_hz)
            spans = snap_to_cuts(spans, find_cuts(source.path), settings.snap_to_cuts_s, shortest_s)
        if settings.stitch_above is not None:
            spans = stitch(spans, sampled, settings.stitch_above, settings.max_clip_s)
        record = replace(
            draft.record,
            duration_s=sampler.duration_s,
            clips=tuple(Clip(start_s=start_s, end_s=end_s) for start_s, end_s in spans),
        )
        facts = replace(draft, record=record, sampled=sampled, frame_hashes=sampled.hashes)
        return replace(facts, clip_embeddings=embed_clips(sampled, spans)).noted("segment", self.provenance())

    def _watch(self, sampler: FrameSampler, video_id: str) -> Sampled:
        """Decode once; embed the frames batch by batch without keeping them."""
        from dataset_builder.models.embed import load_embeddings

        embeddings, brightness, changes, hashes = [], [], [], []
        last: np.ndarray | None = None
        for frames in sampler:
            if self.embedder:
                embeddings.append(self.embedder(frames))
            brightness.append(frames.mean(axis=(1, 2, 3)))
            neighbours = np.concatenate([frames[:1] if last is None else last, frames]).astype(np.int16)
            changes.append(np.abs(np.diff(neighbours, axis=0)).mean(axis=(1, 2, 3)))
            hashes.append(difference_hashes(frames))
            last = frames[-1:]
        num_frames = sum(map(len, brightness))
        return Sampled(
            rate_hz=self.settings.frame_rate_hz,
            embeddings=np.concatenate(embeddings)
            if embeddings
            else load_embeddings(str(self.settings.embeddings), video_id, num_frames),
            brightness=np.concatenate(brightness),
            changes=np.concatenate(changes),
            hashes=np.concatenate(hashes),
        )


def segment_video(embeddings: np.ndarray, duration_s: float, settings: SegmentSettings) -> list[tuple[float, float]]:
    """Consecutive clips `(start_s, end_s)` from 0 to the video's end.

    Args:
        embeddings: one row per sampled frame, any norm, shape `(N, D)`, N >= 1; frame k represents the interval that
            starts at `k / frame_rate_hz`.
        duration_s: length of the video.
        settings: rate, number of segments, penalty, shortest and longest clip.
    """
    rate = settings.frame_rate_hz
    shortest = max(1, int(np.ceil(settings.min_clip_s * rate - 1e-9)))
    longest = len(embeddings) if settings.max_clip_s is None else int(settings.max_clip_s * rate + 1e-9)
    longest = max(longest, 2 * shortest - 1)  # in whole frames; else some lengths could not be filled
    borders: list[int] = []
    first = 0
    for part in np.array_split(embeddings, -(-len(embeddings) // WINDOW)):
        num_segments = max(1, int(len(part) / settings.frames_per_segment))
        borders += [first] * (first > 0)
        borders += [first + border for border in kts(part, num_segments, settings.penalty, shortest, longest)]
        first += len(part)
    times = [0.0, *(border / rate for border in borders), duration_s]
    return list(pairwise(times))


def snap_to_cuts(
    spans: Sequence[tuple[float, float]], cuts_s: Sequence[float], within_s: float, shortest_s: float
) -> list[tuple[float, float]]:
    """Move each border to the nearest hard cut, if it is near enough and both clips stay long enough.

    Args:
        spans: `(start_s, end_s)` of consecutive clips.
        cuts_s: times of hard cuts, ascending.
        within_s: how far a border may move.
        shortest_s: no clip may become shorter than this.
    """
    times = [spans[0][0], *(end_s for _, end_s in spans)]
    for index in range(1, len(times) - 1):
        cut_s = min(cuts_s, key=lambda cut_s: abs(cut_s - times[index]), default=None)
        if cut_s is None or abs(cut_s - times[index]) > within_s:
            continue
        if cut_s - times[index - 1] >= shortest_s - 1e-9 and times[index + 1] - cut_s >= shortest_s - 1e-9:
            times[index] = cut_s
    return list(pairwise(times))


def stitch(
    spans: Sequence[tuple[float, float]], sampled: Sampled, above: float, max_clip_s: float | None
) -> list[tuple[float, float]]:
    """Join neighbours that look alike, the most similar first, until none are similar enough or short enough.

    Args:
        spans: `(start_s, end_s)` of consecutive clips.
        sampled: the video's frames.
        above: least cosine of the clips' mean embeddings.
        max_clip_s: longest joined clip.
    """
    joined = list(spans)
    while len(joined) > 1:
        means = embed_clips(sampled, joined)
        alike = (means[:-1] * means[1:]).sum(axis=1)  # (C - 1,)
        if max_clip_s is not None:
            lengths = np.array([after[1] - before[0] for before, after in pairwise(joined)])
            alike = np.where(lengths > max_clip_s + 1e-9, -np.inf, alike)
        best = int(alike.argmax())
        if alike[best] < above:
            break
        joined[best : best + 2] = [(joined[best][0], joined[best + 1][1])]
    return joined


def frames_of(span: tuple[float, float], num_frames: int, rate_hz: float) -> slice:
    """Which of N sampled frames belong to a clip; at least one."""
    first = min(int(span[0] * rate_hz + 0.5), num_frames - 1)
    return slice(first, min(max(int(span[1] * rate_hz + 0.5), first + 1), num_frames))


def embed_clips(sampled: Sampled, spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """Mean of the unit embeddings of each clip's frames, scaled to unit length: float32, `(C, D)`."""
    unit = _unit(sampled.embeddings.astype(np.float32))
    return _unit(np.stack([unit[frames_of(span, len(unit), sampled.rate_hz)].mean(axis=0) for span in spans]))


def difference_hashes(frames: np.ndarray) -> np.ndarray:
    """64 bits per frame: whether each cell of an 8 x 9 grid of grey levels is darker than its right neighbour.

    Args:
        frames: uint8, shape `(N, H, W, 3)`, H >= 8 and W >= 9.

    Returns:
        uint64, shape `(N,)`; rescaling or recompressing a picture changes few bits.
    """
    grey = frames.mean(axis=3, dtype=np.float32)  # (N, H, W)
    rows, columns = (np.arange(cells) * size // cells for cells, size in zip((8, 9), grey.shape[1:], strict=True))
    cells = np.add.reduceat(np.add.reduceat(grey, rows, axis=1), columns, axis=2)  # (N, 8, 9)
    area = np.outer(np.diff(rows, append=grey.shape[1]), np.diff(columns, append=grey.shape[2]))
    cells = cells / area
    bits = cells[:, :, :-1] < cells[:, :, 1:] - 0.5  # by half a level, so that noise cannot decide between equal cells
    return np.packbits(bits.reshape(len(frames), 64), axis=1).view(np.uint64)[:, 0]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
