"""A folder's index on disk: `index.jsonl` (what it is of, then one line a file) and one `.npy` with the embeddings.

Both are written aside and renamed; the rename of `index.jsonl`, which names the other, makes them valid together.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image


if TYPE_CHECKING or __package__:
    from demo.engine import Captioner
    from demo.index import FolderIndex, IndexedFile, list_media
    from demo.media import Medium
else:
    from engine import Captioner
    from index import FolderIndex, IndexedFile, list_media
    from media import Medium


FORMAT = 1
INDEX_FILE = "index.jsonl"
INSIDE_MEDIA = ".cosmo-index"
"""Where the index lies when the folder of pictures and videos itself is given as the index."""
PROBE_TEXT = "a probe"
MIN_PROBE_COSINE = 0.9995
"""Two computations of one model's embedding agree better (bfloat16 loses less than 0.0001), two models do not."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an index lies and what it is of."""

    directory: Path
    """Holds the index, or will."""
    folder: Path
    """The pictures and videos."""
    model: str
    """A saved model folder, or a repository of the Hub."""


def find_place(directory: Path, folder: Path | None = None, model: str | None = None) -> Place:
    """Completes what a user says about an index by what a saved one remembers.

    Args:
        directory: A saved index, or where to put one; or, without `folder`, the pictures and videos themselves.
        folder: The pictures and videos.
        model: The model; it may have moved since the index was made.

    Raises:
        FileNotFoundError: A folder is not there.
        ValueError: Something is missing that no saved index remembers, or the index is one of another folder.
    """
    is_media_folder = folder is None or folder.resolve() == directory.resolve()
    if is_media_folder and directory.is_dir() and not (directory / INDEX_FILE).is_file():
        if not (directory / INSIDE_MEDIA).is_dir() and not list_media(directory):
            raise ValueError(f"{directory} holds neither an index nor pictures or videos: name their folder, too")
        folder, directory = directory, directory / INSIDE_MEDIA
    known = _read_header(directory) if (directory / INDEX_FILE).is_file() else {}
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    if folder is None and not known:
        raise FileNotFoundError(f"there is no index at {directory}: name the folder of pictures or videos to make it")
    if folder is not None and known and folder.resolve() != Path(known["folder"]) and Path(known["folder"]).is_dir():
        raise ValueError(f"{directory} is the index of {known['folder']}, not of {folder}: name another index")
    model = model or known.get("model")
    if model is None:
        raise ValueError(f"there is no index at {directory} yet: name the model that shall make it (--model)")
    return Place(directory=directory, folder=(folder or Path(known["folder"])).resolve(), model=model)


def load_index(captioner: Captioner, place: Place) -> FolderIndex:
    """The saved index of a place, or an empty one where none is saved.

    Raises:
        ValueError: The index is damaged, or another model made it.
    """
    if not (place.directory / INDEX_FILE).is_file():
        return FolderIndex(captioner, place.folder)
    header = _read_header(place.directory)
    if not _is_same_model(header["probe"], _probe(captioner)):
        raise ValueError(
            f"{place.directory} was made by another model than {place.model} (by {header['model']}): "
            "name that one, or another index"
        )
    return FolderIndex(captioner, place.folder, _read_files(place.directory, header))


def save_index(index: FolderIndex, place: Place) -> None:
    """Writes an index, replacing the one that is there.

    Raises:
        OSError: The place cannot be written.
    """
    place.directory.mkdir(parents=True, exist_ok=True)
    embeddings = index.embeddings
    array_file = f"embeddings-{hashlib.sha256(embeddings.tobytes()).hexdigest()[:16]}.npy"
    aside = place.directory / "embeddings.tmp"
    with aside.open("wb") as file:
        np.save(file, embeddings, allow_pickle=False)
    aside.replace(place.directory / array_file)
    header = {
        "format": FORMAT,
        "model": _absolute(place.model),
        "folder": str(place.folder),
        "embeddings": array_file,
        "probe": _probe(index.captioner),
    }
    lines = [header] + [{"path": name, "stamp": file.stamp, "spans": file.spans} for name, file in index.files.items()]
    aside = place.directory / f"{INDEX_FILE}.tmp"
    aside.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    aside.replace(place.directory / INDEX_FILE)
    for old in place.directory.glob("embeddings-*.npy"):
        if old.name != array_file:
            old.unlink(missing_ok=True)


def _absolute(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _probe(captioner: Captioner) -> list[list[float]]:
    """What the model makes of one fixed clip and one fixed text: as good as its name, wherever it lies."""
    frames = [Image.new("RGB", (64, 64), (40 * (turn % 6), 255 - 30 * (turn % 8), 90)) for turn in range(3)]
    medium = Medium(name="probe", frames=tuple(frames[: captioner.num_frames]))
    rows = [captioner.embed_media([medium])[0], captioner.embed_text(PROBE_TEXT)]
    return [[round(value, 6) for value in row.tolist()] for row in rows]


def _is_same_model(saved: list[list[float]], found: list[list[float]]) -> bool:
    if [len(row) for row in saved] != [len(row) for row in found]:
        return False
    return bool((np.asarray(saved) * np.asarray(found)).sum(axis=-1).min() >= MIN_PROBE_COSINE)


def _read_header(directory: Path) -> dict[str, Any]:
    try:
        with (directory / INDEX_FILE).open(encoding="utf-8") as file:
            header = json.loads(file.readline())
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']}, expected {FORMAT}")
        if not {"model", "folder", "embeddings", "probe"} <= header.keys():
            raise ValueError("its first line is incomplete")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(directory, error) from None
    return header


def _read_files(directory: Path, header: dict[str, Any]) -> dict[str, IndexedFile]:
    try:
        with (directory / INDEX_FILE).open(encoding="utf-8") as file:
            entries = [json.loads(line) for line in file][1:]
        embeddings = np.load(directory / Path(header["embeddings"]).name, allow_pickle=False)
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
    except (ValueError, KeyError, TypeError, EOFError, FileNotFoundError) as error:
        raise _damaged(directory, error) from None


def _damaged(directory: Path, error: Exception) -> ValueError:
    return ValueError(f"{directory} is a damaged index ({error}): delete it, and it is made again")
