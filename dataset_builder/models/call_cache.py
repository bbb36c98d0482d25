"""Keep answers of chat models on disk, so that no call is made or paid twice, by a second build or after a kill -9.

An answer's file is named by the hash of everything it depends on (model, prompt, input, attempt). It holds the answer
with its token counts and nothing of the question. It is written aside and renamed, so a file that exists is whole.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset_builder.atomic import write_whole
from dataset_builder.models.chat import Answer


class CallCache:
    """A folder of answers, shared by all workers and builds.

    Args:
        folder: created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, question: Any, ask: Callable[[], Answer]) -> Answer:
        """The answer from the folder, or from `ask`, which is then kept.

        Args:
            question: everything the answer depends on, as JSON-like values.
            ask: makes the call; errors that it raises are not kept.
        """
        name = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        path = self.folder / name[:2] / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:  # of two workers with the same question, only one asks
            fcntl.flock(lock, fcntl.LOCK_EX)
            answer = read_saved(path)
            if answer is None:
                answer = ask()
                write_whole(path, json.dumps(asdict(answer)))
        return answer


def read_saved(path: Path) -> Answer | None:
    """A kept answer; None if there is none, or a power cut tore the file."""
    try:
        return Answer(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
