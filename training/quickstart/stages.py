"""Run each stage of a pipeline once: skip a stage whose result exists and is up to date.

`stages.json` in the run folder records a hash of the dependencies, the time and the memory of each finished stage. An
interrupted stage is not in it and runs again.
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
    """Stages of one run folder, in the order in which they run; each depends on all before it.

    Args:
        folder: the run folder.
        say: gets one line when a stage starts, and one when it ends.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = folder / "stages.json", say
        folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.chain = ""

    def run(self, name: str, depends_on: object, outputs: list[Path], work: Callable[[], None]) -> bool:
        """Run `work`, unless the stage finished with the same inputs and its outputs still exist.

        Args:
            name: name of the stage in `stages.json` and on the screen.
            depends_on: settings and revisions, as JSON values; earlier stages count automatically.
            outputs: files and folders that `work` writes.
            work: does the stage; must be safe to run again after an interruption at any point.

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
        """Return whether the named stages finished one after the other, starting from `chain`."""
        for name in names:
            entry = self.done.get(name, {})
            if entry.get("after") != chain:
                return False
            chain = entry["key"]
        return True

    def seconds(self, names: Sequence[str]) -> dict[str, float]:
        """Return the wall time of each named stage, in seconds."""
        return {name: self.done[name]["seconds"] for name in names}

    def peak_memory_gb(self, names: Sequence[str]) -> float:
        """Return the peak memory of the process tree over the named stages, in GiB."""
        return max(float(self.done[name]["peak_memory_gb"]) for name in names)

    def _save(self) -> None:
        write_whole(self.path, json.dumps(self.done, indent=1) + "\n")


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keep a second process out of a run folder; the lock is released when the process ends, however it ends.

    Raises:
        ValueError: if another process is using the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is in use by another process: wait for it, or give another --output") from None
        yield


class PeakMemory:
    """Peak resident memory of this process and its children; pages that they share count once per process."""

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
    """Return a SHA-256 over Python and YAML sources, so that results of other code count as out of date."""
    digest = hashlib.sha256()
    for root in folders_or_files:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix in (".py", ".yaml"))
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
