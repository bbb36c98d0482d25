"""Count what a corpus holds, record by record, for the card of a build and for `cosmo inspect`."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from dataset_builder.models.model_folders import TOWERS, first_line
from dataset_builder.schema import Clip, InterleavedVideo


TokenCounter = Callable[[str], int]


@dataclass
class SplitStatistics:
    """Counts over the records of one split, added up one by one."""

    num_videos: int = 0
    num_documents: int = 0
    """Videos with at least one kept clip."""
    num_clips: int = 0
    num_kept: int = 0
    num_caption_words: int = 0
    """Words in the captions of kept clips."""
    num_tokens: int | None = None
    """Tokens in these captions; None without a tokenizer."""
    num_spoken: int = 0
    """Kept clips with speech."""
    num_scored: int = 0
    """Kept clips whose caption a model compared with the pictures."""
    duration_s: float = 0.0
    kept_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why clips were dropped, and how many."""
    licenses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Videos of each source and licence."""
    narration: Counter[str] = field(default_factory=Counter)
    """Requests and tokens that a chat model used for the captions."""

    def add(self, record: InterleavedVideo, count_tokens: TokenCounter | None = None) -> None:
        """Count one more record."""
        kept = record.kept().clips
        self.num_videos += 1
        self.num_documents += bool(kept)
        self.num_clips += len(record.clips)
        self.num_kept += len(kept)
        self.num_caption_words += sum(len(clip.caption.split()) for clip in kept)
        if count_tokens:
            self.num_tokens = (self.num_tokens or 0) + sum(count_tokens(clip.caption) for clip in kept)
        self.num_spoken += sum(bool(clip.asr) for clip in kept)
        self.num_scored += sum(clip.similarity is not None for clip in kept)
        self.duration_s += record.duration_s
        self.kept_s += sum(clip.end_s - clip.start_s for clip in kept)
        self.reasons += count_reasons(record.clips)
        self.licenses[record.source, record.license] += 1
        self.narration.update(record.provenance.get("narrate", {}).get("spent", {}))


def count_reasons(clips: Iterable[Clip]) -> Counter[str]:
    """How many clips were dropped for each reason; details after a colon are not counted separately."""
    return Counter(clip.drop_reason.split(":")[0] for clip in clips if not clip.keep)


def total(splits: Iterable[SplitStatistics]) -> SplitStatistics:
    """The counts of several splits together."""
    result = SplitStatistics()
    for split in splits:
        for item in fields(SplitStatistics):
            mine, other = getattr(result, item.name), getattr(split, item.name)
            if other is not None:
                setattr(result, item.name, other if mine is None else mine + other)
    return result


def token_counter(tokenizer: str) -> TokenCounter:
    """A function that counts the tokens of a text, without those that a tokenizer adds around it.

    Args:
        tokenizer: folder or id of a transformers tokenizer; `toy` is the one of the shipped toy language model.

    Raises:
        ValueError: if it cannot be loaded.
    """
    from transformers import AutoTokenizer

    folder = TOWERS / "opt" if tokenizer == "toy" else Path(tokenizer)
    try:
        loaded = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else tokenizer)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the tokenizer {tokenizer!r}: {first_line(error)}") from error
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"])
