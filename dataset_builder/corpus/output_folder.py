"""The corpus folder beside its records: videos, what a killed build left, checksums."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from dataset_builder.atomic import recover, replacing, write_whole
from dataset_builder.inputs import SourceVideo


FOLDERS = ("data", "videos")
WRITTEN = ("README.md", "quarantine.jsonl", "shards.json", "SHA256SUMS")  # next to the shards and the videos


def refuse_others_folder(output_dir: Path, input_dir: Path) -> None:
    """Refuse to build where files that are not a build's own would be replaced.

    Raises:
        ValueError: if the output is inside the input, the input is inside a folder of the corpus, or the output holds
            files that a build writes but no folder `.build`, which a build would have left.
    """
    output, source = output_dir.resolve(), input_dir.resolve()
    if output.is_relative_to(source):
        raise ValueError(
            f"the output {output_dir} is inside the input {input_dir}: a second run would read its own result"
        )
    if any(source.is_relative_to(output / name) for name in FOLDERS):
        raise ValueError(
            f"the input {input_dir} is among the files of the output {output_dir}, which a build replaces"
        )
    others = [name for name in (*FOLDERS, *WRITTEN) if (output / name).exists()]
    if others and not (output / ".build").is_dir():
        raise ValueError(f"{output_dir} holds {', '.join(others)} that no build wrote; choose another output folder")


def store_videos(output_dir: Path, sources: Sequence[SourceVideo]) -> None:
    """Bring videos into the corpus folder, as hard links if the disk allows, and remove others."""
    wanted = {output_dir / source.stored_path: source.path for source in sources}
    for stored, path in wanted.items():
        store_video(stored, path)
    for stored in (output_dir / "videos").rglob("*"):
        if stored.is_file() and stored not in wanted:
            stored.unlink()


def store_video(stored: Path, path: Path) -> None:
    """Bring a video into the corpus folder, as a hard link if the disk allows; keep one that is already there."""
    if stored.exists() and (stored.samefile(path) or _same_status(stored, path)):
        return
    with replacing(stored) as temporary:
        try:
            temporary.hardlink_to(path.resolve())
        except OSError:  # another disk, or a file system without links
            shutil.copy2(path, temporary)


def _same_status(first: Path, second: Path) -> bool:
    status, other = first.stat(), second.stat()
    return (status.st_size, status.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def remove_leftovers(output_dir: Path) -> None:
    """Clear up what a killed build left half written; old shards that it had moved aside get their place back."""
    for name in ("data", *WRITTEN):
        recover(output_dir, name)


def write_checksums(output_dir: Path) -> None:
    """Write SHA256SUMS, which `sha256sum -c` reads."""
    lines = []
    others = [output_dir / name for name in WRITTEN if name != "SHA256SUMS"]
    for path in [*sorted((output_dir / "data").iterdir()), *others]:
        if path.exists():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(output_dir).as_posix()}\n")
    write_whole(output_dir / "SHA256SUMS", "".join(lines))
