"""Find the videos of an input folder by split, each with the files that belong to it."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


SPLITS = ("train", "validation", "test")
VIDEO_SUFFIXES = tuple(
    f".{name}"
    for names in (
        ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts", "vob", "flv", "f4v", "wmv"),
        ("asf", "ogv", "3gp", "3g2", "gif", "mxf", "divx", "rm", "rmvb", "nut", "ivf", "h264", "h265", "hevc"),
    )
    for name in names
)
SUBTITLE_SUFFIXES = (".vtt", ".srt", ".ass", ".ssa", ".ttml")  # the first ones are preferred


@dataclass(frozen=True, kw_only=True)
class SourceVideo:
    """An input video and the files that belong to it."""

    split: str
    """`train`, `validation` or `test`."""
    video_id: str
    """Path below the split folder, without suffix unless two files would share the name."""
    path: Path
    name: str
    """Path below the input folder, with `/`."""
    subtitles: Path | None
    """`NAME.vtt` or another of the suffixes, else `NAME.LANGUAGE.vtt` or another; the first that exists."""
    truth: Path | None
    """`NAME.json`, if it exists."""

    @property
    def stored_path(self) -> str:
        """Where the corpus keeps the file, relative to the corpus folder."""
        suffix = "" if self.video_id.rpartition("/")[2] == self.path.name else self.path.suffix
        return f"videos/{self.split}/{self.video_id}{suffix}"


def find_videos(folder: Path) -> list[SourceVideo]:
    """All videos below a folder, by split and then by name.

    The folders `train`, `validation` and `test` at the top are the splits; without any of them, everything is `train`.
    Videos are recognised by their suffix; other files (licences, lists, subtitles) are ignored.

    Raises:
        ValueError: if there is no such folder, it holds no video, or a video is outside the splits (in `val`, say).
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    splits = {split: folder / split for split in SPLITS if (folder / split).is_dir()} or {"train": folder}
    if folder not in splits.values():
        _refuse_videos_beside(splits, folder)
    found = [source for split, root in splits.items() for source in _find_in(root, split, folder)]
    if not found:
        raise ValueError(f"no video in {folder} (looked for {', '.join(VIDEO_SUFFIXES)})")
    return found


def is_text(name: str) -> bool:
    """Whether a file name is UTF-8, as a corpus needs it to be; older systems used other encodings."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def refusal(source: SourceVideo) -> str:
    """Why a video cannot even be opened; "" if there is no reason."""
    if not is_text(source.name):
        return "its name is not UTF-8; rename the file"
    return "" if source.path.is_file() else "a link to a file that is not there"


def shown(name: str) -> str:
    """A file name with a replacement character for every byte that is not UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def _find_in(root: Path, split: str, folder: Path) -> list[SourceVideo]:
    files = _walk(root)
    present = {path for path in files if path.is_file()}
    videos = {path: None for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
    stems = Counter(path.with_suffix("") for path in videos)
    subtitles: dict[Path, list[Path]] = {}
    for path in present:
        if path.suffix.lower() in SUBTITLE_SUFFIXES and is_text(path.name):
            bare = path.with_suffix("")
            subtitles.setdefault(bare if bare in stems else bare.with_suffix(""), []).append(path)
    sources = []
    for path in videos:
        bare = path.with_suffix("")
        truth = path.with_suffix(".json")
        sources.append(
            SourceVideo(
                split=split,
                video_id=(bare if stems[bare] == 1 and bare not in videos else path).relative_to(root).as_posix(),
                path=path,
                name=path.relative_to(folder).as_posix(),
                subtitles=_first_subtitle(bare, subtitles.get(bare, ())),
                truth=truth if truth in present else None,
            )
        )
    return sorted(sources, key=lambda source: source.video_id)


def _refuse_videos_beside(splits: Mapping[str, Path], folder: Path) -> None:
    """Refuse videos that belong to no split: they would be left out silently.

    Raises:
        ValueError: naming the first one.
    """
    others = (path for path in folder.iterdir() if path.name not in splits and not path.name.startswith("."))
    files = [file for path in others for file in (_walk(path) if path.is_dir() else [path])]
    beside = sorted(path for path in files if path.suffix.lower() in VIDEO_SUFFIXES)
    if beside:
        first, more = shown(beside[0].relative_to(folder).as_posix()), len(beside) - 1
        raise ValueError(
            f"{folder} has the splits {', '.join(splits)}, and beside them {first}"
            + (f" and {more} more videos" if more else "")
            + f": a split is one of {', '.join(SPLITS)}; move what is not of the corpus elsewhere"
        )


def _walk(root: Path) -> list[Path]:
    """Files and broken links below a folder, except hidden ones; a folder that is linked twice is read once."""
    found, seen = list[Path](), set[str]()
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if os.path.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.is_file() or path.is_symlink()]
    return sorted(found)


def _first_subtitle(bare: Path, paths: Sequence[Path]) -> Path | None:
    """Prefer the subtitle without a language in its name, then the order of the suffixes, then the alphabet."""
    rank = lambda path: (path.stem != bare.name, SUBTITLE_SUFFIXES.index(path.suffix.lower()), path.name)
    return min(paths, key=rank, default=None)
