"""Where the models that a recipe names lie, and which weights they hold."""

import hashlib
from pathlib import Path


TOWERS = Path(__file__).parent / "toy" / "towers"


def tower_folder(tower: str) -> Path:
    """Folder of a tower; `toy` is the shipped one.

    Raises:
        ValueError: where it is missing.
    """
    folder = TOWERS / "clip" if tower == "toy" else Path(tower)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"no tower {tower!r}: {folder} has no config.json (give the folder of a CLIP or SigLIP model)"
        )
    return folder


def folder_fingerprint(folder: Path) -> str:
    """Sixteen hex digits that change with the name or content of any file at a model folder's top level."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def first_line(error: Exception) -> str:
    """What a library says is wrong, cut to one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
