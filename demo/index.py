"""Search the pictures and clips of a folder: each is embedded once, then compared with a sentence.

Shape letters: N pictures and clips, E shared dimension of texts and media.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm


if TYPE_CHECKING or __package__:
    from demo.engine import CaptionEngine
    from demo.media import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Medium, Span, read_medium, read_parts
else:
    from engine import CaptionEngine
    from media import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Medium, Span, read_medium, read_parts


EMBED_BATCH = 16
PART_S = 4.0
"""Longest part in which a video is searched, in seconds, unless a file next to the video says where clips end."""
SAVE_EVERY_S = 60.0
"""Interval at which a long update saves its progress, in seconds."""

Stamp = tuple[int, ...]
"""Sizes in bytes and times of the last change, in ns, of a file and of the JSON file next to it."""


@dataclass(frozen=True, kw_only=True)
class IndexedFile:
    """One file of the folder, as it was when it was embedded."""

    stamp: Stamp
    """Reveals a change of the file."""
    spans: tuple[Span | None, ...]
    """Its parts in seconds; a single `None` if it is embedded as a whole."""
    embeddings: np.ndarray
    """One row per part, float32, unit length, shape `(parts, E)`."""


@dataclass(frozen=True, kw_only=True)
class SearchHit:
    """One result of a search."""

    path: str
    """Relative to the folder, with `/`."""
    span: Span | None
    """The part of the file, in seconds; `None`: all of it."""
    cosine: float
    """Cosine similarity to the query, from -1 to 1."""


class FolderIndex:
    """Index of the pictures and clips in a folder and its subfolders, without hidden ones.

    Args:
        captioner: computes the embeddings.
        folder: folder of the files.
        files: files that are already embedded, by path; `update` keeps those that have not changed.
    """

    def __init__(self, captioner: CaptionEngine, folder: Path, files: dict[str, IndexedFile] | None = None) -> None:
        self.captioner = captioner
        self.folder = folder
        self.files: dict[str, IndexedFile] = files or {}

    def update(
        self,
        *,
        max_files: int | None = None,
        watch: Callable[[str, Medium], None] | None = None,
        save: Callable[[], None] | None = None,
        progress: bool = False,
    ) -> list[str]:
        """Embed new and changed files, and forget files that are gone.

        Args:
            max_files: look at only this many files, the first ones.
            watch: called with the file path and the medium for every picture and clip that gets embedded.
            save: called now and then, and at the end (also after Ctrl-C), if anything has changed.
            progress: show a progress bar on stderr.

        Returns:
            One line for each file that cannot be read; those are not in the index.
        """
        complaints: list[str] = []
        found = list_media(self.folder)[:max_files]
        if self.files and not found:  # perhaps an unmounted drive: do not forget hours of work
            return [f"{self.folder} holds no pictures or videos: searching the files indexed earlier"]
        stamps = self._stamps(found, complaints)
        kept = {name: file for name, file in self.files.items() if stamps.get(name) == file.stamp}
        has_changed = len(kept) < len(self.files)
        self.files = kept
        missing = [name for name in stamps if name not in kept]
        saved_s = time.monotonic()
        names = tqdm(missing, desc="embedding", unit="file", disable=not (progress and missing))
        try:
            for name, spans, rows in self._embed(names, complaints, watch):
                self.files[name] = IndexedFile(stamp=stamps[name], spans=spans, embeddings=rows)
                has_changed = True
                if save and time.monotonic() - saved_s > SAVE_EVERY_S:
                    save()
                    saved_s = time.monotonic()
        finally:
            names.close()
            self.files = dict(sorted(self.files.items()))
            if save and has_changed:
                save()
        return complaints

    @property
    def clips(self) -> list[tuple[str, Span | None]]:
        """Path and part of each row, in a fixed order: everything that can be found."""
        return [(name, span) for name, file in self.files.items() for span in file.spans]

    @property
    def embeddings(self) -> np.ndarray:
        """All rows in the order of `clips`, shape `(N, E)`."""
        rows = [file.embeddings for file in self.files.values()]
        return np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32)

    def search(self, text: str, num_results: int) -> list[SearchHit]:
        """Find the nearest pictures and clips, nearest first; ties are in order of path and time."""
        if not self.files:
            return []
        cosines = self.embeddings @ self.captioner.embed_text(text).numpy()  # (N,)
        clips = self.clips
        best = np.argsort(-cosines, kind="stable")[:num_results]
        return [SearchHit(path=clips[row][0], span=clips[row][1], cosine=float(cosines[row])) for row in best]

    def _stamps(self, names: Iterable[str], complaints: list[str]) -> dict[str, Stamp]:
        stamps = {}
        for name in names:
            try:
                stamps[name] = _stamp(self.folder / name)
            except OSError as error:  # a broken link, or deleted since it was listed
                complaints.append(_complaint(name, error))
        return stamps

    def _embed(
        self, names: Iterable[str], complaints: list[str], watch: Callable[[str, Medium], None] | None
    ) -> Iterator[tuple[str, tuple[Span | None, ...], np.ndarray]]:
        """Yield path, parts and rows of every readable file, once all of its parts are embedded."""
        unread: set[str] = set()
        open_files: dict[str, list[tuple[Span | None, np.ndarray]]] = {}
        for batch in _batches(self._read(names, complaints, unread), EMBED_BATCH):
            rows = self.captioner.embed_media([medium for _, medium in batch]).numpy()  # (batch, E)
            for (name, medium), row in zip(batch, rows, strict=True):
                open_files.setdefault(name, []).append((medium.span, row))
                if watch:
                    watch(name, medium)
            for name in [
                name for name in open_files if name != batch[-1][0]
            ]:  # the last may continue in the next batch
                yield from _finish(name, open_files.pop(name), unread)
        for name, parts in open_files.items():
            yield from _finish(name, parts, unread)

    def _read(self, names: Iterable[str], complaints: list[str], unread: set[str]) -> Iterator[tuple[str, Medium]]:
        for name in names:
            path = self.folder / name
            try:
                if path.suffix.lower() in PICTURE_SUFFIXES:
                    yield name, read_medium(path, self.captioner.num_frames, limits=None)
                else:
                    for medium in read_parts(path, self.captioner.num_frames, PART_S):
                        yield name, medium
            except (OSError, ValueError) as error:
                unread.add(name)
                complaints.append(_complaint(name, error))


def list_media(folder: Path) -> list[str]:
    """List pictures and videos in a folder and its subfolders, without hidden ones.

    Returns:
        Paths relative to the folder, with `/`, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    found = (
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES) and not path.is_dir()
    )
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def _stamp(path: Path) -> Stamp:
    stats = [path.stat()]
    if (beside := path.with_suffix(".json")).is_file():
        stats.append(beside.stat())
    return tuple(value for stat in stats for value in (stat.st_size, stat.st_mtime_ns))


def _complaint(name: str, error: OSError | ValueError) -> str:
    """One line that starts with the file's path in the folder."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    file_name = name.rsplit("/", 1)[-1]
    return name + text.removeprefix(file_name) if text.startswith(file_name) else f"{name}: {text}"


def _finish(
    name: str, parts: list[tuple[Span | None, np.ndarray]], unread: set[str]
) -> Iterator[tuple[str, tuple[Span | None, ...], np.ndarray]]:
    if name not in unread:  # a file with damage further on is left out completely
        yield name, tuple(span for span, _ in parts), np.stack([row for _, row in parts])


def _batches(media: Iterable[tuple[str, Medium]], size: int) -> Iterator[list[tuple[str, Medium]]]:
    iterator = iter(media)
    while batch := list(islice(iterator, size)):
        yield batch
