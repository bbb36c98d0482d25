"""Open files that a data set names, inside one folder or below one address; names that lead out of it are refused."""

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dataset_builder.errors import DamagedInput


OUTSIDE = "path leads out of the folder"


@dataclass(frozen=True)
class MediaFolder:
    """A folder, or an address that fsspec knows (`hf://datasets/...`, `s3://...`)."""

    url: str

    @property
    def is_local(self) -> bool:
        """Whether the files can be opened by path."""
        return isinstance(self._split()[0], LocalFileSystem)

    def local_path(self, name: str) -> Path:
        """Path of a file of a local folder.

        Raises:
            DamagedInput: if the name leads out of the folder, even through a link.
            FileNotFoundError: if there is no such file.
        """
        name = check_name(name)
        folder = Path(self._split()[1]).resolve()
        path = Path(os.path.realpath(folder / name))  # `resolve` raises at a link that leads to itself
        if not path.is_relative_to(folder):
            raise DamagedInput(OUTSIDE)
        try:
            there = path.is_file()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            there = False
        if not there:
            raise FileNotFoundError(name)
        return path

    def read(self, name: str, max_bytes: int) -> bytes:
        """Read a whole file.

        Raises:
            DamagedInput: if the name leads out of the folder, or the file is larger than `max_bytes`.
            FileNotFoundError: if there is no such file.
        """
        if self.is_local:
            with self.local_path(name).open("rb") as file:
                data = file.read(max_bytes + 1)
        else:
            system, root = self._split()
            with system.open(f"{root.rstrip('/')}/{check_name(name)}", "rb") as file:
                data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise DamagedInput(f"file larger than {max_bytes} bytes")
        return data

    def read_first(self, names: Iterable[str], max_bytes: int) -> bytes:
        """Read the first of several files that exists.

        Raises:
            DamagedInput: as for `read`.
            FileNotFoundError: if none exists.
        """
        for name in names:
            try:
                return self.read(name, max_bytes)
            except FileNotFoundError:
                continue
        raise FileNotFoundError(f"none of {names}")

    def _split(self) -> tuple[Any, str]:
        """File system and path; fsspec makes the file system once per process."""
        return fsspec.core.url_to_fs(self.url)


def check_name(name: str) -> str:
    """Return a relative path that stays below its folder, with `/` and without `.`.

    Raises:
        DamagedInput: for an absolute path, one with `..`, a drive, an address, a backslash or a control character, or
            a name that is not UTF-8.
    """
    if re.search(r"[\ud800-\udfff]", name):
        raise DamagedInput("name is not UTF-8")
    strange = re.search(r"[\x00-\x1f\x7f\\]|::|://|^[A-Za-z]:|^~", name)
    path = PurePosixPath(name)
    if strange or path.is_absolute() or ".." in path.parts or not path.name:
        raise DamagedInput(OUTSIDE)
    return path.as_posix()
