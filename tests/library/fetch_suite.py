"""Fetch the tests that transformers ships with its code, in exactly the installed version.

They go to a folder that git ignores and are not part of this project:
    python tests/library/fetch_suite.py
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath


CACHE = Path(__file__).parents[2] / ".library-tests"
PACKAGE = "transformers_tests"
"""Name under which the suite is imported; its own name, `tests`, is also this project's."""


def suite_folder() -> Path:
    """Folder of the package with the installed version's suite; it may not exist yet."""
    return CACHE / version("transformers")


def fetch(folder: Path) -> None:
    """Download the source distribution from the package index and extract its tests.

    Args:
        folder: receives the package, whole or not at all, since it is renamed into place.

    Raises:
        subprocess.CalledProcessError: if pip cannot get it.
        ValueError: if the distribution holds no tests.
    """
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        wanted = f"transformers=={folder.name}"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "transformers",
            wanted,
        ]
        subprocess.run([*command, "--dest", temporary], check=True)
        archive = next(Path(temporary).glob("transformers-*.tar.gz"))
        fresh = Path(temporary) / "fresh"
        extract_tests(archive, fresh / PACKAGE)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


def extract_tests(archive: Path, target: Path) -> None:
    """Write the regular files under `NAME/tests/` of a source distribution to `target`, and nothing else.

    Raises:
        ValueError: if there are none.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            place = place_in_suite(member.name)
            content = tar.extractfile(member) if place is not None and member.isfile() else None
            if place is None or content is None:
                continue
            path = target / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
    if not target.is_dir():
        raise ValueError(f"{archive.name} holds no tests")
    (target / "__init__.py").touch()


def place_in_suite(name: str) -> PurePosixPath | None:
    """`transformers-1.0/tests/a/b.py` -> `a/b.py`; `None` for anything that is not a test file or points elsewhere."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or parts[1] != "tests" or ".." in parts or name.startswith("/"):
        return None
    return PurePosixPath(*parts[2:])


if __name__ == "__main__":
    if (suite_folder() / PACKAGE).is_dir():
        print(f"already here: {suite_folder()}")
    else:
        fetch(suite_folder())
        print(f"fetched: {suite_folder()}")
