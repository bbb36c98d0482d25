"""Count what a reader yielded and what it left out and why, per shard; files in a folder sum this over workers."""

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_builder.atomic import write_whole


KINDS = {"skipped": "skipped", "dropped": "dropped parts", "repaired": "repaired parts"}  # with words for messages
MAX_EXAMPLES = 100  # named per shard; all are counted
logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """Counts over one shard, kept while it is read."""

    shard: str
    """Name of the shard; its counts replace those of an earlier pass over the same shard."""
    num_samples: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Samples left out, by reason."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Parts of samples left out (a clip, an image), by reason."""
    repaired: Counter[str] = field(default_factory=Counter)
    """Parts of samples that were malformed in a known way and have been corrected."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """Which ones, for the first `MAX_EXAMPLES`."""

    def skip(self, reason: str, name: str = "", detail: str = "") -> None:
        """Count a sample that is left out."""
        self._count(self.skipped, reason, name, detail)

    def drop(self, reason: str, name: str = "", detail: str = "") -> None:
        """Count a part of a sample that is left out."""
        self._count(self.dropped, reason, name, detail)

    def repair(self, reason: str, name: str = "", detail: str = "") -> None:
        """Count a part of a sample that has been corrected."""
        self._count(self.repaired, reason, name, detail)

    def _count(self, counts: Counter[str], reason: str, name: str, detail: str) -> None:
        counts[reason] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append({"reason": reason, "name": name, "detail": detail})

    def close(self, report: str | Path | None) -> None:
        """At the end of the shard, log what was left out and write the counts into the folder `report`."""
        if self.skipped or self.dropped:
            logger.warning("%s: %s", self.shard, _in_words(self.num_samples, self._counts()))
        if report is not None:
            name = hashlib.sha256(self.shard.encode()).hexdigest()[:24]
            write_whole(Path(report) / f"{name}.json", json.dumps(self._as_dict(), sort_keys=True))

    def _counts(self) -> dict[str, dict[str, int]]:
        return {kind: dict(getattr(self, kind)) for kind in KINDS}

    def _as_dict(self) -> dict[str, Any]:
        counts = {"shard": self.shard, "num_samples": self.num_samples, "examples": self.examples}
        return counts | self._counts()


@dataclass(frozen=True, kw_only=True)
class ReadSummary:
    """Sums over the shards that were read to their end; prints as one line."""

    num_shards: int
    num_samples: int
    skipped: dict[str, int]
    """Samples left out, by reason, most frequent first."""
    dropped: dict[str, int]
    """Parts of samples left out, by reason, most frequent first."""
    repaired: dict[str, int]
    """Corrected parts of samples, by reason, most frequent first."""

    def __str__(self) -> str:
        counts = {kind: getattr(self, kind) for kind in KINDS}
        return f"{self.num_shards} shards: {_in_words(self.num_samples, counts)}"


def read_summary(report: str | Path) -> ReadSummary:
    """Sum the counts that readers wrote into the folder passed to them as `report`.

    Every shard counts once, however many workers, nodes or epochs read it, and even if a reader was stopped and
    resumed. A shard that was never read to its end does not count.

    Raises:
        ValueError: if there is no such folder.
    """
    folder = Path(report)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; a reader writes it once it has read a shard to its end")
    shards = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    sums = {kind: sum((Counter(shard[kind]) for shard in shards), Counter()) for kind in KINDS}
    return ReadSummary(
        num_shards=len(shards),
        num_samples=sum(shard["num_samples"] for shard in shards),
        **{kind: dict(counts.most_common()) for kind, counts in sums.items()},
    )


def _in_words(num_samples: int, counts: dict[str, dict[str, int]]) -> str:
    parts = [f"{num_samples} samples"]
    for kind, words in KINDS.items():
        if reasons := counts[kind]:
            listed = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
            parts.append(f"{words} {sum(reasons.values())} ({listed})")
    return "; ".join(parts)
