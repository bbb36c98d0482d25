"""Find the models that a recipe names, and identify their weights."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


TOWERS = Path(__file__).parents[1] / "toy" / "towers"
REPOSITORY = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class ModelPlace:
    """Where a model that a recipe names is loaded from."""

    location: str
    """Folder, or id of a Hub repository."""
    revision: str | None = None
    """Commit, tag or branch of the repository; None: its default branch."""

    @property
    def name(self) -> str:
        """Name for provenance: the folder's last part, or the id with its revision."""
        if Path(self.location).is_dir():
            return "toy" if Path(self.location) == TOWERS / "clip" else Path(self.location).name
        return self.location + (f"@{self.revision}" if self.revision else "")

    @property
    def options(self) -> dict[str, str]:
        """Arguments of `from_pretrained` besides the location."""
        return {"revision": self.revision} if self.revision else {}

    def fingerprint(self) -> str | None:
        """A digest that changes with a folder's weights; None for a repository, whose files are not downloaded yet."""
        return folder_fingerprint(Path(self.location)) if Path(self.location).is_dir() else None


def find_model(name: str) -> ModelPlace:
    """Find a model: a folder, `owner/name` or `owner/name@revision` on the Hub, or `toy` (the shipped one).

    Raises:
        ValueError: for any other name.
    """
    folder = TOWERS / "clip" if name == "toy" else Path(name)
    if (folder / "config.json").is_file():
        return ModelPlace(str(folder))
    repository = None if folder.is_dir() else REPOSITORY.fullmatch(name)
    if repository is None:
        raise ValueError(
            f"no model {name!r}: {folder} has no config.json, and it is not the id of a repository (owner/name)"
        )
    return ModelPlace(repository["id"], repository["revision"])


def folder_fingerprint(folder: Path) -> str:
    """Sixteen hex digits that change with the name or content of any file at the top level of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def first_line(error: Exception) -> str:
    """The first line of a library's error message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def weights(place: ModelPlace, model: Any) -> dict[str, str]:
    """The weights of a loaded model, for provenance: the folder's fingerprint, or the repository's commit."""
    found = place.fingerprint() or getattr(model.config, "_commit_hash", None)
    return {"weights": found} if found else {}
