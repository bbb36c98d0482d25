"""The corpus folder beside its records: videos, what a killed build left, checksums."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from dataset_builder.atomic import recover, replacing, write_whole
from dataset_builder.inputs import SourceVideo


FOLDERS = ("data", "videos")
WRITTEN = ("README.md", "quarantine.jsonl", "shards.json", "SHA256SUMS")  # beside the shards and the videos


def refuse_others_folder(output_dir: Path, input_dir: Path) -> None:
    """Let no build write where its files would take the place of somebody else's.

    Raises:
        ValueError: where the output lies inside the input, the input in a folder of the corpus, or the output holds
            what a build writes without the folder `.build` that it would have left.
    """
    output, source = output_dir.resolve(), input_dir.resolve()
    if output.is_relative_to(source):
        raise ValueError(
            f"the output {output_dir} lies inside the input {input_dir}: a second run would read its own result"
        )
    if any(source.is_relative_to(output / name) for name in FOLDERS):
        raise ValueError(
            f"the input {input_dir} lies among the files of the output {output_dir}, which a build replaces"
        )
    others = [name for name in (*FOLDERS, *WRITTEN) if (output / name).exists()]
    if others and not (output / ".build").is_dir():
        raise ValueError(f"{output_dir} holds {', '.join(others)} that no build wrote; choose another output folder")


def store_videos(output_dir: Path, sources: Sequence[SourceVideo]) -> None:
    """Bring videos into the corpus folder, as links to the same file where the disk allows, and remove others."""
    wanted = {output_dir / source.stored_path: source.path for source in sources}
    for stored, path in wanted.items():
        store_video(stored, path)
    for stored in (output_dir / "videos").rglob("*"):
        if stored.is_file() and stored not in wanted:
            stored.unlink()


def store_video(stored: Path, path: Path) -> None:
    """Bring a video to its place, as a link to the same file where the disk allows; one that is there stays."""
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
    """SHA256SUMS, which `sha256sum -c` reads."""
    lines = []
    others = [output_dir / name for name in WRITTEN if name != "SHA256SUMS"]
    for path in [*sorted((output_dir / "data").iterdir()), *others]:
        if path.exists():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(output_dir).as_posix()}\n")
    write_whole(output_dir / "SHA256SUMS", "".join(lines))
