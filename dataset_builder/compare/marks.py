"""What stages that see the whole corpus work on: views that mark each video as it is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from dataset_builder.draft import Draft


class Drafts(Protocol):
    """All readable videos, read one by one and as often as needed, so that a corpus need not fit into memory."""

    def __len__(self) -> int:
        """Number of videos."""
        ...

    def __getitem__(self, index: int, /) -> Draft:
        """One video, in the order of splits and names."""
        ...


class CorpusStage(Protocol):
    """A step that sees all videos at once and marks clips of some."""

    def __call__(self, drafts: Drafts) -> Drafts:
        """The same videos in the same order, with the stage's marks."""
        ...


@dataclass(frozen=True)
class Marked:
    """Videos with a function of draft and index applied to each when it is read."""

    drafts: Drafts
    mark: Callable[[Draft, int], Draft]

    def __len__(self) -> int:
        return len(self.drafts)

    def __getitem__(self, index: int, /) -> Draft:
        return self.mark(self.drafts[index], index)


def in_order(drafts: Drafts) -> Iterator[Draft]:
    """The videos, one by one."""
    return (drafts[index] for index in range(len(drafts)))
