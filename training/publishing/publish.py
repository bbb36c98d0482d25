"""Publish a model, a corpus or the demo as a repository of the Hugging Face Hub.

One list of files is made, checked and printed, and exactly that list is uploaded. The same commit deletes all other
files of the repository, so that a second push leaves nothing stale.
"""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.publishing import checks


Kind = Literal["model", "dataset", "space"]
CHECKS = {"model": checks.check_model, "dataset": checks.check_dataset, "space": checks.check_space}


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """File of a planned upload."""

    path: str
    """Path in the repository, with `/`."""
    num_bytes: int
    """Length in bytes."""


@dataclass(frozen=True, kw_only=True)
class PublishPlan:
    """Files that a call of `publish` uploads, or would upload."""

    kind: Kind
    """Kind of repository."""
    repo_id: str
    """Name of the repository, `owner/name`, or `name` for the account of the token."""
    files: tuple[PlannedFile, ...]
    """Files to upload, in order of path."""
    left_out: tuple[str, ...]
    """Caches and other local files in the folder that are not uploaded."""
    url: str | None = None
    """Address of the repository after the upload; `None` after a dry run."""

    @property
    def num_bytes(self) -> int:
        """Total length of all files, in bytes."""
        return sum(file.num_bytes for file in self.files)

    def describe(self) -> str:
        """Return the plan as a table: one line per file with its bytes, then the total."""
        width = max(len(f"{self.num_bytes:,}"), len("bytes"))
        lines = [f"{file.num_bytes:>{width},}  {file.path}" for file in self.files]
        left_out = f"; {len(self.left_out)} caches and local files left out" if self.left_out else ""
        return "\n".join(
            [
                f"{self.kind} {self.repo_id}",
                f"{'bytes':>{width}}  path",
                *lines,
                f"{self.num_bytes:>{width},}  total, {len(self.files)} files{left_out}",
            ]
        )


def plan_publish(kind: Kind, path: Path, repo_id: str) -> PublishPlan:
    """Check a folder and list the files that publishing it would upload; needs no network.

    Args:
        kind: kind of content.
        path: folder as written by `save_pretrained` or `cosmo build`, or `demo/`.
        repo_id: name of the repository.

    Raises:
        ValueError: if the folder is not a complete model, corpus or Space, or holds a secret, or `repo_id` is not a
            valid name.
        FileNotFoundError: if there is no such folder.
    """
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in any __all__

    if kind not in CHECKS:
        raise ValueError(f"cannot publish a {kind!r}: expected one of {', '.join(CHECKS)}")
    validate_repo_id(repo_id)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder")
    found = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    kept = [name for name in found if not checks.matches(name, checks.LEFT_OUT)]
    checks.check_no_secrets(path, kept)
    CHECKS[kind](path, kept)
    return PublishPlan(
        kind=kind,
        repo_id=repo_id,
        files=tuple(PlannedFile(path=name, num_bytes=(path / name).stat().st_size) for name in kept),
        left_out=tuple(name for name in found if name not in set(kept)),
    )


def publish(
    kind: Kind, path: Path, repo_id: str, *, dry_run: bool = False, revision: str = "main", private: bool = False
) -> PublishPlan:
    """Upload a folder to the Hub in one commit; create the repository if it does not exist.

    Args:
        kind: kind of content.
        path: folder to upload.
        repo_id: name of the repository.
        dry_run: only check and list.
        revision: branch to write; created if it does not exist.
        private: whether a repository created here is private.

    Returns:
        The files uploaded, with the repository's address; after a dry run, the files that would be.

    Raises:
        ValueError: see `plan_publish`.
        OSError: if the Hub cannot be reached, or refuses (no token, no right to write).
    """
    plan = plan_publish(kind, path, repo_id)
    if dry_run:
        return plan

    import httpx2  # the HTTP client of huggingface_hub 2
    from huggingface_hub import HfApi

    api = HfApi(library_name="cosmo-vlm")
    try:
        url = api.create_repo(
            repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk="gradio" if kind == "space" else None
        )
        if revision != "main":
            api.create_branch(url.repo_id, branch=revision, repo_type=kind, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            repo_type=kind,
            folder_path=path,
            revision=revision,
            commit_message=f"Publish {kind} with cosmo publish",
            allow_patterns=[glob.escape(file.path) for file in plan.files],
            delete_patterns=["*"],
        )
    except httpx2.TransportError as error:
        raise ConnectionError(f"cannot reach {api.endpoint}: {error}") from error
    return PublishPlan(kind=kind, repo_id=url.repo_id, files=plan.files, left_out=plan.left_out, url=str(url))
