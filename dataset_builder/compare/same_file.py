"""Find videos that are the same file under another name."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dataset_builder.inputs import SourceVideo


# Of equal videos, the test split keeps its copy, so that no test video is trained on.
KEPT_FIRST = ("test", "validation", "train")


def find_duplicates(sources: Sequence[SourceVideo]) -> dict[Path, str]:
    """Videos whose file equals another one byte for byte, with the `split/video_id` of the one that stays.

    Only files of equal size are read. The copy in the test split stays in preference to those in validation and train;
    within a split, the first by name stays.
    """
    by_size: dict[int, list[SourceVideo]] = {}
    for source in sorted(sources, key=lambda source: (KEPT_FIRST.index(source.split), source.video_id)):
        by_size.setdefault(source.path.stat().st_size, []).append(source)
    duplicates: dict[Path, str] = {}
    for same_size in by_size.values():
        first_of: dict[str, str] = {}
        for source in same_size if len(same_size) > 1 else ():
            with source.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest in first_of:
                duplicates[source.path] = first_of[digest]
            first_of.setdefault(digest, f"{source.split}/{source.video_id}")
    return duplicates
