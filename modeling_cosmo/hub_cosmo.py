"""Remove the weights of an earlier push from a repository of the Hub."""

import re
from os import PathLike
from pathlib import Path

from huggingface_hub import CommitOperationDelete, HfApi


WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
"""Names that `save_pretrained` gives to weights, whole or in shards."""


def delete_stale_weights(
    repo_id: str, folder: str | PathLike, revision: str | None = None, token: bool | str | None = None
) -> list[str]:
    """Delete weight files that a push did not upload; loading would prefer a whole file to shards.

    Args:
        repo_id: the repository, `owner/name`.
        folder: the folder that was just pushed.
        revision: branch or pull request that it was pushed to.
        token: of the account that pushed.

    Returns:
        The names of the deleted files.
    """
    pushed = {path.name for path in Path(folder).iterdir()}
    if not any(WEIGHTS.fullmatch(name) for name in pushed):
        return []
    api = HfApi()
    found = api.list_repo_files(repo_id, revision=revision, token=token)
    stale = sorted(name for name in found if WEIGHTS.fullmatch(name) and name not in pushed)
    if stale:
        api.create_commit(
            repo_id,
            [CommitOperationDelete(path_in_repo=name) for name in stale],
            commit_message="Delete weights of an earlier push",
            revision=revision,
            token=token,
        )
    return stale
