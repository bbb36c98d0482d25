"""A folder's index on disk: `index.jsonl` (a header, then one line per file) and one `.npy` with the embeddings.

Both are written under temporary names and then renamed. `index.jsonl` names the other file by its content, so its
rename makes both valid at once. Several processes may use one index: they take turns writing, and the last one wins.
"""

import fcntl
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image


if TYPE_CHECKING or __package__:
    from demo.engine import CaptionEngine
    from demo.index import FolderIndex, IndexedFile, list_media
    from demo.media import Medium
else:
    from engine import CaptionEngine
    from index import FolderIndex, IndexedFile, list_media
    from media import Medium


FORMAT = 1
INDEX_FILE = "index.jsonl"
ARRAY_PATTERN = f"embeddings-{'[0-9a-f]' * 16}.npy"
LOCK_FILE = ".lock"
INSIDE_MEDIA = ".cosmo-index"
"""Subfolder for the index if the folder of pictures and videos itself is given as the index."""
PROBE_TEXT = "a probe"
MIN_PROBE_COSINE = 0.9995
"""Two runs of one model agree better than this (bfloat16 loses less than 0.0001), two models do not."""


@dataclass(frozen=True, kw_only=True)
class IndexLocation:
    """Where an index is and what it indexes."""

    directory: Path
    """Folder of the index; it may not exist yet."""
    folder: Path
    """The pictures and videos."""
    model: str
    """A saved model folder, or a repository of the Hub."""


def find_location(directory: Path, folder: Path | None = None, model: str | None = None) -> IndexLocation:
    """Fill in what the user left out with what a saved index remembers.

    Args:
        directory: a saved index, or where to put one; or, without `folder`, the pictures and videos themselves.
        folder: the pictures and videos.
        model: the model; it may have moved since the index was made.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if something is missing that no saved index remembers, or the index belongs to another folder.
    """
    is_media_folder = folder is None or folder.resolve() == directory.resolve()
    if is_media_folder and directory.is_dir() and not (directory / INDEX_FILE).is_file():
        if not (directory / INSIDE_MEDIA).is_dir() and not list_media(directory):
            raise ValueError(f"{directory} holds neither an index nor pictures or videos: name their folder too")
        folder, directory = directory, directory / INSIDE_MEDIA
    known = _read_header(directory) if (directory / INDEX_FILE).is_file() else {}
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    if folder is None and not known:
        raise FileNotFoundError(f"there is no index at {directory}: name the folder of pictures or videos to index")
    if folder is not None and known and folder.resolve() != Path(known["folder"]) and Path(known["folder"]).is_dir():
        raise ValueError(f"{directory} is the index of {known['folder']}, not of {folder}: name another index")
    model = model or known.get("model")
    if model is None:
        raise ValueError(f"there is no index at {directory} yet: name the model to make it with (--model)")
    return IndexLocation(directory=directory, folder=(folder or Path(known["folder"])).resolve(), model=model)


def load_index(captioner: CaptionEngine, place: IndexLocation) -> FolderIndex:
    """Load the saved index of a place, or return an empty one if there is none.

    Raises:
        ValueError: if the index is damaged, or another model made it.
    """
    if not (place.directory / INDEX_FILE).is_file():
        return FolderIndex(captioner, place.folder)
    data = (place.directory / INDEX_FILE).read_bytes()
    header = _parse_header(place.directory, data.partition(b"\n")[0])
    if not _is_same_model(header["probe"], _probe(captioner)):
        raise ValueError(
            f"{place.directory} was made by another model than {place.model} (by {header['model']}): "
            "name that model, or another index"
        )
    try:
        return FolderIndex(captioner, place.folder, _read_files(place.directory, header, data.splitlines()[1:]))
    except FileNotFoundError as error:
        if (place.directory / INDEX_FILE).read_bytes() == data:
            raise _damaged(place.directory, error) from None
    return load_index(captioner, place)  # another process has replaced it since


def save_index(index: FolderIndex, place: IndexLocation) -> None:
    """Write an index, replacing any earlier one.

    Raises:
        OSError: if the place cannot be written to.
    """
    embeddings = index.embeddings
    array_file = _array_name(embeddings)
    header = {
        "format": FORMAT,
        "model": _absolute(place.model),
        "folder": str(place.folder),
        "embeddings": array_file,
        "probe": _probe(index.captioner),
    }
    lines = [header] + [{"path": name, "stamp": file.stamp, "spans": file.spans} for name, file in index.files.items()]
    try:
        place.directory.mkdir(parents=True, exist_ok=True)
        with (place.directory / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _write(place.directory, array_file, embeddings, "".join(f"{json.dumps(line)}\n" for line in lines))
    except OSError as error:
        raise OSError(f"cannot save the index in {place.directory}: {error.strerror or error}") from error


def _write(directory: Path, array_file: str, embeddings: np.ndarray, text: str) -> None:
    # Not `dataset_builder.atomic`: this folder runs alone, as a Space. The lock lets one name serve all writers.
    aside = directory / "embeddings.tmp"
    with aside.open("wb") as file:
        np.save(file, embeddings, allow_pickle=False)
    aside.replace(directory / array_file)
    aside = directory / f"{INDEX_FILE}.tmp"
    aside.write_text(text, encoding="utf-8")
    aside.replace(directory / INDEX_FILE)
    for old in directory.glob(ARRAY_PATTERN):
        if old.name != array_file:
            old.unlink(missing_ok=True)


def _array_name(embeddings: np.ndarray) -> str:
    return f"embeddings-{hashlib.sha256(embeddings.tobytes()).hexdigest()[:16]}.npy"


def _absolute(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _probe(captioner: CaptionEngine) -> list[list[float]]:
    """The model's embeddings of one fixed clip and one fixed text, which identify it wherever it is stored."""
    frames = [Image.new("RGB", (64, 64), (40 * (turn % 6), 255 - 30 * (turn % 8), 90)) for turn in range(3)]
    medium = Medium(name="probe", frames=tuple(frames[: captioner.num_frames]))
    rows = [captioner.embed_media([medium])[0], captioner.embed_text(PROBE_TEXT)]
    return [[round(value, 6) for value in row.tolist()] for row in rows]


def _is_same_model(saved: list[list[float]], found: list[list[float]]) -> bool:
    if [len(row) for row in saved] != [len(row) for row in found]:
        return False
    return bool((np.asarray(saved) * np.asarray(found)).sum(axis=-1).min() >= MIN_PROBE_COSINE)


def _read_header(directory: Path) -> dict[str, Any]:
    with (directory / INDEX_FILE).open("rb") as file:
        return _parse_header(directory, file.readline())


def _parse_header(directory: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        if not isinstance(header, dict) or not {"format", "model", "folder", "embeddings", "probe"} <= header.keys():
            raise ValueError("its first line is incomplete")
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']}, expected {FORMAT}")
    except ValueError as error:
        raise _damaged(directory, error) from None
    return header


def _read_files(directory: Path, header: dict[str, Any], lines: list[bytes]) -> dict[str, IndexedFile]:
    try:
        entries = [json.loads(line) for line in lines]
        embeddings = np.load(directory / Path(header["embeddings"]).name, allow_pickle=False)
        if header["embeddings"] != _array_name(embeddings):
            raise ValueError(f"{header['embeddings']} is not what was saved")
        ends = np.cumsum([len(entry["spans"]) for entry in entries], dtype=int)
        if embeddings.ndim != 2 or len(embeddings) != (ends[-1] if entries else 0):
            raise ValueError(f"embeddings of shape {embeddings.shape} for {ends[-1] if entries else 0} rows")
        return (
            {
                entry["path"]: IndexedFile(
                    stamp=tuple(entry["stamp"]),
                    spans=tuple(None if span is None else (span[0], span[1]) for span in entry["spans"]),
                    embeddings=rows,
                )
                for entry, rows in zip(entries, np.split(embeddings, ends[:-1]), strict=True)
            }
            if entries
            else {}
        )
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise _damaged(directory, error) from None


def _damaged(directory: Path, error: Exception) -> ValueError:
    return ValueError(f"{directory} is a damaged index ({error}): delete its {INDEX_FILE} to build it again")
