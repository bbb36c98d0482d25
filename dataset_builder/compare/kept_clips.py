"""The clips of a corpus that are still kept, as one table for the stages that compare all videos."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dataset_builder.compare.marks import Drafts, Marked, in_order
from dataset_builder.draft import Draft


@dataclass(frozen=True, kw_only=True)
class KeptClips:
    """One row per clip with `keep: true`, in the order of the corpus; a row takes about 2 bytes x D of memory."""

    videos: np.ndarray
    """Index of the clip's video, int32, shape `(N,)`."""
    clips: np.ndarray
    """Index of the clip in its video, int32, shape `(N,)`."""
    embeddings: np.ndarray
    """Unit length, float16, shape `(N, D)`."""


def read_kept_clips(drafts: Drafts) -> KeptClips:
    """Gather the clips that are still kept, and their embeddings.

    Raises:
        ValueError: if the embeddings, made elsewhere, differ in length between videos.
    """
    videos, clips, rows = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for video, draft in enumerate(in_order(drafts)):
        kept = [index for index, clip in enumerate(draft.record.clips) if clip.keep]
        if kept:
            assert draft.clip_embeddings is not None  # `segment` has run
            if rows and rows[0].shape[1] != draft.clip_embeddings.shape[1]:
                raise ValueError(
                    f"the embeddings of {draft.source.name} have {draft.clip_embeddings.shape[1]} numbers each; "
                    f"those of the videos before it {rows[0].shape[1]}"
                )
            videos.append(np.full(len(kept), video, dtype=np.int32))
            clips.append(np.array(kept, dtype=np.int32))
            rows.append(draft.clip_embeddings[kept])
    if not rows:
        nothing = np.zeros(0, dtype=np.int32)
        return KeptClips(videos=nothing, clips=nothing, embeddings=np.zeros((0, 1), dtype=np.float16))
    return KeptClips(
        videos=np.concatenate(videos), clips=np.concatenate(clips), embeddings=np.concatenate(rows).astype(np.float16)
    )


def drop_clips(drafts: Drafts, reasons: Mapping[int, Mapping[int, str]]) -> Drafts:
    """The same videos, with `keep: false` for some clips.

    Args:
        drafts: all videos.
        reasons: index of a video -> index of a clip -> why it is dropped; a clip dropped before keeps its reason.
    """

    def mark(draft: Draft, index: int) -> Draft:
        if index not in reasons:
            return draft
        clips = [
            replace(clip, keep=False, drop_reason=reasons[index][number])
            if clip.keep and number in reasons[index]
            else clip
            for number, clip in enumerate(draft.record.clips)
        ]
        return draft.with_clips(clips)

    return Marked(drafts, mark)
