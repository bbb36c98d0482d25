"""The dataset card that a build writes: how it was made, what is in it, what was dropped and why."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml

from dataset_builder.filter import count_reasons
from dataset_builder.recipe import PATH_KEYS, Recipe
from dataset_builder.schema import InterleavedVideo


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass
class SplitStatistics:
    """Counts over the records of one split, added one by one."""

    num_videos: int = 0
    num_clips: int = 0
    num_kept: int = 0
    num_caption_words: int = 0
    """Words in the captions of kept clips."""
    num_spoken: int = 0
    """Kept clips in which something is said."""
    duration_s: float = 0.0
    kept_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why clips were dropped, and how many."""

    def add(self, record: InterleavedVideo) -> None:
        """Count one more record."""
        kept = record.kept().clips
        self.num_videos += 1
        self.num_clips += len(record.clips)
        self.num_kept += len(kept)
        self.num_caption_words += sum(len(clip.caption.split()) for clip in kept)
        self.num_spoken += sum(bool(clip.asr) for clip in kept)
        self.duration_s += record.duration_s
        self.kept_s += sum(clip.end_s - clip.start_s for clip in kept)
        self.reasons += count_reasons(record.clips)


def make_card(recipe: Recipe, splits: Mapping[str, SplitStatistics], tools: Mapping[str, Any], num_faults: int) -> str:
    """The README.md of a corpus: metadata for the Hub, then Markdown.

    Args:
        recipe: what it was built with.
        splits: statistics of every split that has records.
        tools: provenance of the stages, as one record has it.
        num_faults: damaged files listed in quarantine.jsonl.
    """
    num_videos = sum(split.num_videos for split in splits.values())
    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits]
    metadata = {
        "pretty_name": f"Interleaved videos: {recipe.source}",
        "license": recipe.license,
        "task_categories": ["video-text-to-text", "image-text-to-text"],
        "tags": ["interleaved", "video", "cosmo"],
        "size_categories": [next((name for limit, name in SIZES if num_videos < limit), "n>1M")],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    settings = yaml.safe_dump(_without_paths(recipe), sort_keys=False, allow_unicode=True)
    stages = {
        "probe": {key: tools["probe"][key] for key in ("tool", "version")},
        **{key: tools[key] for key in _MODELS if key in tools},
    }
    used = yaml.safe_dump(stages, sort_keys=False, allow_unicode=True)
    return _CARD.format(
        front=front,
        source=recipe.source,
        license=recipe.license,
        statistics=_statistics(splits),
        drops=_drop_table(splits),
        faults=f"{num_faults} damaged files are listed in `quarantine.jsonl`."
        if num_faults
        else "No file was damaged.",
        where="inside the shards"
        if recipe.shards.embed_videos
        else "in `videos/`; `video.path` is relative to this folder",
        recipe_name=recipe.name,
        recipe=settings,
        tools=used,
    )


def _without_paths(recipe: Recipe) -> dict[str, Any]:
    """The recipe's settings; of folders on the builder's machine only the last name."""
    settings = recipe.as_dict()
    for stage in settings.values():
        for key in PATH_KEYS if isinstance(stage, dict) else ():
            if stage.get(key):
                stage[key] = PurePath(stage[key]).name
    return {key: values for key, values in settings.items() if values is not None}


def _statistics(splits: Mapping[str, SplitStatistics]) -> str:
    rows = [
        f"| {name} | {split.num_videos} | {split.num_clips} | {split.num_kept} "
        f"| {split.num_kept / split.num_videos:.1f} | {_ratio(split.num_caption_words, split.num_kept)} "
        f"| {_ratio(100 * split.num_spoken, split.num_kept)} "
        f"| {split.duration_s / 3600:.3f} | {split.kept_s / 3600:.3f} |"
        for name, split in splits.items()
    ]
    head = (
        "| split | videos | clips | kept | kept per video | words per caption | with speech, % | hours | hours kept |"
    )
    return "\n".join([head, "|---" * 9 + "|", *rows])


def _drop_table(splits: Mapping[str, SplitStatistics]) -> str:
    reasons = sum((split.reasons for split in splits.values()), Counter[str]())
    if not reasons:
        return "No clip was dropped."
    rows = [
        f"| {reason} | " + " | ".join(str(split.reasons[reason]) for split in splits.values()) + " |"
        for reason, _ in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]
    return "\n".join([f"| reason | {' | '.join(splits)} |", "|---" * (1 + len(splits)) + "|", *rows])


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.1f}" if whole else "-"


_MODELS = ("segment", "caption")  # stages whose tools are the same for every record

_CARD = """---
{front}---

# Interleaved videos: {source}

Videos cut into clips, in order, each with a caption and with what is said in it. One row is one video.

```python
from datasets import load_dataset

for row in load_dataset("THIS_FOLDER_OR_REPOSITORY", split="train", streaming=True):
    for clip in row["clips"]:
        if clip["keep"]:
            print(clip["start_s"], clip["end_s"], clip["caption"])
```

The videos are {where}.
Clips that a filter rejected, and duplicates of other videos, stay in the rows with `keep: false` and a `drop_reason`.

## Statistics

{statistics}

## Dropped clips

{drops}

## Damaged files

{faults}

## Licence

All videos: `{license}`, as the recipe states it.

## How it was built

With the recipe `{recipe_name}`:

```yaml
{recipe}```

Tools of the stages:

```yaml
{tools}```
"""
