"""The stage `deduplicate`: what is in the corpus more than once stays once."""

from dataclasses import dataclass
from pathlib import Path

from dataset_builder.draft import Draft
from dataset_builder.duplicates import find_duplicates
from dataset_builder.filter import drop_all
from dataset_builder.marks import Drafts, Marked, in_order


@dataclass(frozen=True, kw_only=True)
class DeduplicateSettings:
    """Which copies are marked. They stay in the corpus, with their reason."""

    exact_videos: bool = True
    """Files that are equal byte for byte."""


class DeduplicateStage:
    """Compares the videos of the whole corpus."""

    def __init__(self, settings: DeduplicateSettings) -> None:
        self.settings = settings

    def __call__(self, drafts: Drafts) -> Drafts:
        """The same videos, the clips of copies with `keep: false`."""
        originals: dict[Path, str] = {}
        if self.settings.exact_videos:
            originals = find_duplicates([draft.source for draft in in_order(drafts)])

        def mark(draft: Draft) -> Draft:
            original = originals.get(draft.source.path)
            return (
                draft
                if original is None
                else draft.with_clips(drop_all(draft.record.clips, f"duplicate video: {original}"))
            )

        return Marked(drafts, mark)
