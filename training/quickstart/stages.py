"""Runs the stages of a pipeline once each: a stage whose result is there and up to date is skipped.

`stages.json` in the run folder remembers, for each finished stage, what it depended on, how long it took and how much
memory it needed. A stage that was interrupted is not in it and runs again.
"""

import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from dataset_builder.atomic import write_whole


SAMPLE_EVERY_S = 0.5
GIB = 2**30


class Stages:
    """The stages of one run folder, in the order in which they are run; each depends on all before it.

    Args:
        folder: the run folder.
        say: where the one line per stage goes.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = folder / "stages.json", say
        folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.chain = ""

    def run(self, name: str, depends_on: object, outputs: list[Path], work: Callable[[], None]) -> bool:
        """Runs `work` unless the stage was finished with the same inputs and its outputs are still there.

        Args:
            name: how the stage is called in `stages.json` and on the screen.
            depends_on: settings and revisions, as JSON can hold them; the stages before count by themselves.
            outputs: what `work` leaves.
            work: does the stage; must be safe to run again after having been stopped anywhere.

        Returns:
            Whether `work` ran.
        """
        after = self.chain
        key = hashlib.sha256(json.dumps([after, name, depends_on], sort_keys=True).encode()).hexdigest()
        self.chain = key
        if self.done.get(name, {}).get("key") == key and all(path.exists() for path in outputs):
            self.say(f"[{name}] up to date")
            return False
        self.done.pop(name, None)
        self._save()
        self.say(f"[{name}] ...")
        started = time.monotonic()
        with PeakMemory() as memory:
            work()
        seconds = time.monotonic() - started
        cost = {"seconds": round(seconds, 2), "peak_memory_gb": round(memory.peak_gib, 3)}
        self.done[name] = {"key": key, "after": after, **cost}
        self._save()
        self.say(f"[{name}] {seconds:.0f} s")
        return True

    def follow(self, chain: str, names: Sequence[str]) -> bool:
        """Whether the named stages were finished one after the other, beginning where `chain` stood."""
        for name in names:
            entry = self.done.get(name, {})
            if entry.get("after") != chain:
                return False
            chain = entry["key"]
        return True

    def seconds(self, names: Sequence[str]) -> dict[str, float]:
        """Wall time of each named stage."""
        return {name: self.done[name]["seconds"] for name in names}

    def peak_memory_gb(self, names: Sequence[str]) -> float:
        """Most memory that any named stage's process tree held at once, in GiB."""
        return max(float(self.done[name]["peak_memory_gb"]) for name in names)

    def _save(self) -> None:
        write_whole(self.path, json.dumps(self.done, indent=1) + "\n")


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a run folder; the lock goes with the process, however it ends.

    Raises:
        ValueError: if another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is in use by another process: wait for it, or give another --output") from None
        yield


class PeakMemory:
    """Watches the resident memory of this process and its children; pages that they share count once per process."""

    def __init__(self) -> None:
        self.peak_gib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        root = psutil.Process()
        while True:
            self.peak_gib = max(self.peak_gib, _resident_bytes(root) / GIB)
            if self._stop.wait(SAMPLE_EVERY_S):
                return


def _resident_bytes(root: psutil.Process) -> int:
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def digest_sources(*folders_or_files: Path) -> str:
    """SHA-256 over Python and YAML sources, so that a result made by other code counts as out of date."""
    digest = hashlib.sha256()
    for root in folders_or_files:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix in (".py", ".yaml"))
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
