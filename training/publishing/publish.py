"""Publishing a model, a corpus or the demo as a repository of the Hugging Face Hub.

One list of files is made, checked and printed; exactly that list is uploaded, and whatever else the repository held is
deleted in the same commit, so that a second push leaves nothing stale.
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
    """One file of a planned upload."""

    path: str
    """Where it lands in the repository, with `/`."""
    num_bytes: int
    """Its length."""


@dataclass(frozen=True, kw_only=True)
class PublishPlan:
    """What a call of `publish` uploads, or would upload."""

    kind: Kind
    """The kind of repository."""
    repo_id: str
    """Its name, `owner/name`, or `name` for the account of the token."""
    files: tuple[PlannedFile, ...]
    """What is uploaded, by path."""
    left_out: tuple[str, ...]
    """Caches and the like inside the folder that stay here."""
    url: str | None = None
    """Where the repository is, once uploaded; None after a dry run."""

    @property
    def num_bytes(self) -> int:
        """The length of all files together."""
        return sum(file.num_bytes for file in self.files)

    def describe(self) -> str:
        """The plan as a table: one line a file with its bytes, the total last."""
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
    """Checks a folder and lists what publishing it would upload; needs no network.

    Args:
        kind: What the folder holds.
        path: A folder as `save_pretrained`, `cosmo build` or `demo/` have it.
        repo_id: The repository's name.

    Raises:
        ValueError: The folder is no complete model, corpus or Space, holds a secret, or `repo_id` is no name.
        FileNotFoundError: There is no such folder.
    """
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # in no __all__

    if kind not in CHECKS:
        raise ValueError(f"cannot publish a {kind!r}: expected one of {', '.join(CHECKS)}")
    validate_repo_id(repo_id)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder")
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
    """Uploads a folder to the Hub as one commit, creating the repository where it is missing.

    Args:
        kind: What the folder holds.
        path: The folder.
        repo_id: The repository's name.
        dry_run: Check and list only.
        revision: The branch to write; created where it is missing.
        private: Whether a repository created here is private.

    Returns:
        What was uploaded, with the repository's address; after a dry run what would be.

    Raises:
        ValueError: See `plan_publish`.
        OSError: The Hub cannot be reached, or refuses (no token, no right to write).
    """
    plan = plan_publish(kind, path, repo_id)
    if dry_run:
        return plan

    import httpx2  # what huggingface_hub 2 speaks through
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
