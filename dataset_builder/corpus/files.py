"""Open a corpus in a folder of this machine, a dataset repository on the Hub, or any address that fsspec opens."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import fsspec


@dataclass(frozen=True)
class CorpusFiles:
    """The files of one corpus, read only."""

    name: str
    """The folder, repository or address as the user gave it."""
    filesystem: Any
    """An fsspec file system."""
    root: str
    """The corpus's folder in it."""

    @property
    def is_local(self) -> bool:
        """Whether reading costs no network."""
        return "file" in _protocols(self.filesystem)

    @property
    def address(self) -> str:
        """The corpus's address in the form that fsspec opens."""
        return str(self.filesystem.unstrip_protocol(self.root))

    def reopened(self) -> "CorpusFiles":
        """The same files over new connections of this process (fsspec's asynchronous ones do not survive a fork)."""
        filesystem = type(self.filesystem)(*self.filesystem.storage_args, **self.filesystem.storage_options)
        return replace(self, filesystem=filesystem)

    def open(self, path: str, **options: Any) -> BinaryIO:
        """Open a seekable file for reading; `path` is relative to the corpus, with `/`."""
        return self.filesystem.open(f"{self.root}/{path}", "rb", **options)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read bytes of a file in one request."""
        return self.filesystem.cat_file(f"{self.root}/{path}", start, end)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return bool(self.filesystem.exists(f"{self.root}/{path}"))

    def sizes(self, folder: str) -> dict[str, int]:
        """Name -> bytes of the files in a folder; empty if there is no such folder."""
        if not self.filesystem.isdir(f"{self.root}/{folder}"):
            return {}
        entries = self.filesystem.ls(f"{self.root}/{folder}", detail=True)
        files = [entry for entry in entries if entry["type"] == "file"]
        unknown = {entry["name"] for entry in files if entry["size"] is None}  # not every server lists sizes
        return {
            entry["name"].rsplit("/", 1)[-1]: self.filesystem.size(entry["name"])
            if entry["name"] in unknown
            else entry["size"]
            for entry in files
        }


def open_corpus(name: str | Path) -> CorpusFiles:
    """Find a corpus by its folder, its repository on the Hub, or an address.

    Args:
        name: an existing folder; or an address such as `s3://bucket/corpus` or `hf://datasets/owner/name@revision`;
            or `owner/name`, a dataset repository.

    Raises:
        ValueError: if there is no such folder or repository, or it holds no shards.
    """
    text = str(name)
    if Path(text).is_dir():
        files = CorpusFiles(text, fsspec.filesystem("file"), str(Path(text).resolve()))
    elif "://" in text or _is_repository(text):
        filesystem, root = fsspec.core.url_to_fs(text if "://" in text else f"hf://datasets/{text}")
        files = CorpusFiles(text, filesystem, root.rstrip("/"))
    else:
        raise ValueError(f"no corpus {text}: neither a folder, nor an address, nor owner/name of the Hub")
    if not files.sizes("data"):
        raise ValueError(f"{text} is not a corpus: there is no folder data/ with shards in it")
    return files


def _is_repository(text: str) -> bool:
    owner, _, name = text.partition("/")
    return bool(owner and name) and "/" not in name and owner not in (".", "..", "~")


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
