"""Clips of a folder as the page shows them: an index with a small picture for everything in it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image


if TYPE_CHECKING or __package__:
    from demo.engine import CaptionEngine
    from demo.index import FolderIndex, list_media
    from demo.media import Medium, Span, frame_strip
else:
    from engine import CaptionEngine
    from index import FolderIndex, list_media
    from media import Medium, Span, frame_strip


MAX_FILES = 500
"""Files that can be searched; the page keeps their pictures in memory."""
MAX_SAMPLES = 48
"""Clips that are kept whole, for visitors to try."""


class ShownClips:
    """Embedded clips of a folder and its subfolders; files that cannot be read are reported on stderr.

    Args:
        captioner: computes the embeddings.
        folder: folder of videos and pictures.

    Raises:
        ValueError: if the folder is missing or holds nothing readable.
    """

    def __init__(self, captioner: CaptionEngine, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"--clips {folder} is not a folder")
        self.samples: list[Medium] = []
        self._shown: dict[tuple[str, Span | None], tuple[Image.Image, str]] = {}
        self._index = FolderIndex(captioner, folder)
        num_files = len(list_media(folder))
        if num_files > MAX_FILES:
            print(
                f"{folder} holds {num_files} videos and pictures; only the first {MAX_FILES} are indexed", flush=True
            )
        print(f"reading {min(num_files, MAX_FILES)} files of {folder} for the search", flush=True)
        for complaint in self._index.update(max_files=MAX_FILES, watch=self._keep):
            print(f"left out: {complaint}", file=sys.stderr, flush=True)
        if not len(self):
            raise ValueError(f"--clips {folder} holds no readable video or picture")

    def __len__(self) -> int:
        return len(self._index.clips)

    def search(self, text: str, num_results: int) -> list[tuple[Image.Image, str, float]]:
        """Find the nearest clips, nearest first: frames in a strip, the clip's name, its cosine similarity."""
        found = self._index.search(text, num_results)
        return [(*self._shown[one.path, one.span], one.cosine) for one in found]

    def _keep(self, path: str, medium: Medium) -> None:
        self._shown[path, medium.span] = (frame_strip(medium, height_px=120, max_frames=3), medium.name)
        if len(self.samples) < MAX_SAMPLES:
            self.samples.append(medium)
