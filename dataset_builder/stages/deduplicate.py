"""The stage `deduplicate`: keep only one copy of what the corpus holds more than once.

The copy in the test split stays, else the one in validation, so that no copy of these is trained on; within a split,
the first by name stays. Every step compares only what the previous steps kept.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from dataset_builder.compare.kept_clips import drop_clips, read_kept_clips
from dataset_builder.compare.marks import Drafts, Marked, in_order
from dataset_builder.compare.minhash import NearTextIndex
from dataset_builder.compare.same_clips import find_same_clips
from dataset_builder.compare.same_file import KEPT_FIRST, find_duplicates
from dataset_builder.compare.same_video import SameVideoIndex
from dataset_builder.draft import Draft, share
from dataset_builder.stages.filter import drop_all


@dataclass(frozen=True, kw_only=True)
class DeduplicateSettings:
    """Which copies are marked. They stay in the corpus, with a reason."""

    exact_videos: bool = True
    """Files that are equal byte for byte."""
    video_overlap: float | None = None
    """Videos that share this part of their frames, in the same order: re-encoded copies; null: off."""
    video_hash_bits: int = 6
    """video_overlap: frames match if at most this many bits of their 64-bit difference hashes differ."""
    caption_overlap: float | None = None
    """Captions that share this part of their runs of three words with an earlier one, of any video; null: off."""
    clip_similarity: float | None = None
    """Clips whose embeddings have at least this cosine with a clip of another video; null: off."""

    def __post_init__(self) -> None:
        share(self, "video_overlap", "caption_overlap")
        if not 0 <= self.video_hash_bits <= 20:
            raise ValueError(f"video_hash_bits is {self.video_hash_bits}; expected 0 to 20 of 64")
        if self.clip_similarity is not None and not -1 <= self.clip_similarity <= 1:
            raise ValueError(f"clip_similarity is {self.clip_similarity}; expected a cosine from -1 to 1")


class DeduplicateStage:
    """Compares the videos, captions and clips of the whole corpus."""

    def __init__(self, settings: DeduplicateSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def __call__(self, drafts: Drafts) -> Drafts:
        """The same videos, with `keep: false` for the clips of copies."""
        if self.settings.exact_videos:
            drafts = self._drop_equal_files(drafts)
        if self.settings.video_overlap is not None:
            drafts = self._drop_same_videos(drafts, self.settings.video_overlap)
        if self.settings.caption_overlap is not None:
            drafts = self._drop_near_captions(drafts, self.settings.caption_overlap)
        if self.settings.clip_similarity is not None:
            drafts = self._drop_same_clips(drafts, self.settings.clip_similarity)
        return drafts

    def _drop_equal_files(self, drafts: Drafts) -> Drafts:
        originals = find_duplicates([draft.source for draft in in_order(drafts)])

        def mark(draft: Draft, _: int) -> Draft:
            original = originals.get(draft.source.path)
            if original is None:
                return draft
            return draft.with_clips(drop_all(draft.record.clips, f"duplicate video: {original}"))

        return Marked(drafts, mark)

    def _drop_same_videos(self, drafts: Drafts, least_share: float) -> Drafts:
        index, copies = SameVideoIndex(least_share, self.settings.video_hash_bits), dict[int, str]()
        for number in _order(drafts):
            draft = drafts[number]
            if draft.frame_hashes is None or all("duplicate video" in clip.drop_reason for clip in draft.record.clips):
                continue
            original = index.find_or_add(number, draft.frame_hashes)
            if original is not None:
                copies[number] = name_of(drafts[original])

        def mark(draft: Draft, number: int) -> Draft:
            if number not in copies:
                return draft
            return draft.with_clips(drop_all(draft.record.clips, f"duplicate video: {copies[number]}"))

        return Marked(drafts, mark)

    def _drop_near_captions(self, drafts: Drafts, least_overlap: float) -> Drafts:
        index, places = NearTextIndex(least_overlap), list[str]()
        reasons: dict[int, dict[int, str]] = defaultdict(dict)
        for number in _order(drafts):
            draft = drafts[number]
            for clip_index, clip in enumerate(draft.record.clips):
                if clip.keep:
                    original = index.find_or_add(len(places), clip.caption)
                    places.append(f"{name_of(draft)} clip {clip_index}")
                    if original is not None:
                        reasons[number][clip_index] = f"near-duplicate caption: {places[original]}"
        return drop_clips(drafts, reasons)

    def _drop_same_clips(self, drafts: Drafts, least_cosine: float) -> Drafts:
        kept = read_kept_clips(drafts)
        ranks = np.empty(len(drafts), dtype=np.int64)
        ranks[_order(drafts)] = np.arange(len(drafts))
        reasons: dict[int, dict[int, str]] = defaultdict(dict)
        for copy, original in find_same_clips(kept, ranks, least_cosine, self.seed).items():
            place = f"{name_of(drafts[int(kept.videos[original])])} clip {kept.clips[original]}"
            reasons[int(kept.videos[copy])][int(kept.clips[copy])] = f"near-duplicate clip: {place}"
        return drop_clips(drafts, reasons)


def name_of(draft: Draft) -> str:
    """`split/video_id`."""
    return f"{draft.source.split}/{draft.source.video_id}"


def _order(drafts: Drafts) -> list[int]:
    """Indices of the videos in order of precedence: of several copies, the first stays."""
    ranks = [
        (KEPT_FIRST.index(draft.source.split), draft.source.video_id, index)
        for index, draft in enumerate(in_order(drafts))
    ]
    return [index for *_, index in sorted(ranks)]
