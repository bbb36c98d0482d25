"""The dataset card that a build writes: how the corpus was made, what it holds, what was dropped and why."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml
from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from dataset_builder.corpus.statistics import SplitStatistics, total
from dataset_builder.corpus.tar_shards import TAR_FEATURES
from dataset_builder.recipe import PATH_KEYS, PRIVATE_KEYS, Recipe


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def keep_common(tools: dict[str, Any], provenance: Mapping[str, Any]) -> None:
    """Reduce the stages' facts about themselves to those that are the same in every record.

    Args:
        tools: stage -> facts that were the same so far; empty before the first record. Changed in place.
        provenance: the facts in one more record.
    """
    if not tools:
        tools.update({stage: dict(facts) for stage, facts in provenance.items()})
        return
    for stage, facts in tools.items():
        other = provenance.get(stage, {})
        for key in [key for key, value in facts.items() if key not in other or other[key] != value]:
            del facts[key]


def make_card(recipe: Recipe, splits: Mapping[str, SplitStatistics], tools: Mapping[str, Any], num_faults: int) -> str:
    """The README.md of a corpus: metadata for the Hub, then Markdown.

    Args:
        recipe: the recipe it was built with.
        splits: statistics of every split that has records.
        tools: the stages' facts that are the same in every record.
        num_faults: number of damaged files listed in quarantine.jsonl.
    """
    webdataset = recipe.shards.format == "webdataset"
    stages = [name for name, values in recipe.as_dict().items() if isinstance(values, dict)]
    return _CARD.format(
        front=_front_matter(recipe, splits),
        source=recipe.source,
        clips='row["json"]["clips"]' if webdataset else 'row["clips"]',
        statistics=_statistics(splits),
        details=_details(splits),
        drops=_drop_table(splits),
        faults=f"{num_faults} damaged files were left out." if num_faults else "No file was damaged.",
        where=_WHERE[recipe.shards.format if recipe.shards.embed_videos else "files"],
        licenses=_licenses(splits),
        limits=_limits(splits, tools),
        stages=", ".join(f"`{stage}`" for stage in stages),
        recipe_name=recipe.name,
        recipe=_dump(_without_paths(recipe)),
        tools=_dump({stage: facts for stage, facts in tools.items() if facts}),
    )


def _front_matter(recipe: Recipe, splits: Mapping[str, SplitStatistics]) -> str:
    """Metadata for the Hub and `load_dataset`, as YAML."""
    num_videos = sum(split.num_videos for split in splits.values())
    suffix = "tar" if recipe.shards.format == "webdataset" else "parquet"
    files = [{"split": name, "path": f"data/{name}-*.{suffix}"} for name in splits]
    metadata: dict[str, Any] = {
        "pretty_name": f"Interleaved videos: {recipe.source}",
        "license": recipe.license,
        "task_categories": ["video-text-to-text", "image-text-to-text"],
        "tags": ["interleaved", "video", "cosmo"],
        "size_categories": [next((name for limit, name in SIZES if num_videos < limit), "n>1M")],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    if suffix == "tar":  # Parquet holds its features; for tars, they would be guessed from the first rows
        card = DatasetCardData()
        DatasetInfosDict({"default": DatasetInfo(features=TAR_FEATURES)}).to_dataset_card_data(card)
        metadata |= card.to_dict()
    return _dump(metadata)


def _without_paths(recipe: Recipe) -> dict[str, Any]:
    """The recipe's settings, with only the last part of paths on the builder's machine."""
    settings = recipe.as_dict()
    for stage in settings.values():
        if not isinstance(stage, dict):
            continue
        for key in PRIVATE_KEYS:
            stage.pop(key, None)
        for key in PATH_KEYS:
            if stage.get(key) and (Path(stage[key]).exists() or Path(stage[key]).is_absolute()):  # else it is an id
                stage[key] = PurePath(stage[key]).name
    tokenizer = settings["shards"]["tokenizer"]
    if tokenizer and Path(tokenizer).is_dir():
        settings["shards"]["tokenizer"] = PurePath(tokenizer).name
    return {key: values for key, values in settings.items() if values is not None}


def _with_total(splits: Mapping[str, SplitStatistics]) -> dict[str, SplitStatistics]:
    return {**splits, "all": total(splits.values())} if len(splits) > 1 else dict(splits)


def _statistics(splits: Mapping[str, SplitStatistics]) -> str:
    """The statistics that the card of Howto-Interlink7M gives for each of its files."""
    unit = "tokens" if all(split.num_tokens is not None for split in splits.values()) else "words"
    rows = [
        f"| {name} | {split.num_documents} | {_ratio(split.num_kept, split.num_documents)} "
        f"| {_ratio(split.num_caption_words, split.num_kept)} "
        f"| {_ratio(split.num_tokens if unit == 'tokens' else split.num_caption_words, split.num_documents)} |"
        for name, split in _with_total(splits).items()
    ]
    head = f"| split | documents | clips per document | words per caption | {unit} per document |"
    return "\n".join([head, "|---" * 5 + "|", *rows])


def _details(splits: Mapping[str, SplitStatistics]) -> str:
    rows = [
        f"| {name} | {split.num_videos} | {split.num_clips} | {split.num_kept} "
        f"| {_ratio(split.kept_s, split.num_kept)} | {_ratio(100 * split.num_spoken, split.num_kept)} "
        f"| {split.duration_s / 3600:.3f} | {split.kept_s / 3600:.3f} |"
        for name, split in _with_total(splits).items()
    ]
    head = "| split | videos | clips | kept | seconds per clip | with speech, % | hours | hours kept |"
    spent = total(splits.values()).narration
    if spent:
        rows.append(
            f"\nA chat model wrote the captions: {spent['requests']} answers, {spent['input_tokens']} tokens of "
            f"questions, {spent['output_tokens']} tokens of answers."
        )
    return "\n".join([head, "|---" * 8 + "|", *rows])


def _drop_table(splits: Mapping[str, SplitStatistics]) -> str:
    reasons = sum((split.reasons for split in splits.values()), Counter[str]())
    if not reasons:
        return "No clip was dropped."
    rows = [
        f"| {_cell(reason)} | " + " | ".join(str(split.reasons[reason]) for split in splits.values()) + " |"
        for reason, _ in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]
    return "\n".join([f"| reason | {' | '.join(splits)} |", "|---" * (1 + len(splits)) + "|", *rows])


def _licenses(splits: Mapping[str, SplitStatistics]) -> str:
    counts = sum((split.licenses for split in splits.values()), Counter[tuple[str, str]]())
    rows = [f"| {_cell(source)} | `{_cell(name)}` | {count} |" for (source, name), count in sorted(counts.items())]
    return "\n".join(["| source | licence | videos |", "|---|---|---|", *rows])


def _limits(splits: Mapping[str, SplitStatistics], tools: Mapping[str, Any]) -> str:
    """What a reader should not expect from the corpus, as far as the build knows."""
    whole = total(splits.values())
    lines = ["Captions and borders were made by the tools below; nobody has read or watched them one by one."]
    writer = (tools.get("caption") or {}).get("tool")
    if writer == "speech":
        lines.append("A caption is the speech of its clip: it need not describe what is seen.")
    if writer == "truth":
        lines.append("The captions are the ground truth of rendered videos, not of real ones.")
    if not whole.num_scored:
        lines.append("No model has compared the captions with the pictures: `similarity` is empty.")
    if silent := whole.num_kept - whole.num_spoken:
        lines.append(f"In {silent} of {whole.num_kept} kept clips nothing is said, or no speech was given.")
    if without := whole.num_videos - whole.num_documents:
        lines.append(f"{without} of {whole.num_videos} videos have no clip that was kept.")
    if any(name in ("", "unknown", "other") for _, name in whole.licenses):
        lines.append("The licence of some videos is unknown: clear it before you use or redistribute them.")
    lines.append("Filters find what they look for; what people show or say in the videos was not reviewed.")
    return "\n".join(f"- {line}" for line in lines)


def _ratio(part: float | None, whole: float) -> str:
    return f"{(part or 0) / whole:.1f}" if whole else "-"


def _cell(text: str) -> str:
    """A text without anything that would end a table's cell."""
    return " ".join(text.replace("|", "\\|").split()) or "-"


def _dump(values: Any) -> str:
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


_WHERE = {
    "parquet": "are embedded in the shards, in the column `video`",
    "webdataset": "are in the tars, as `KEY.mp4` (whatever their container; `video.path` in `KEY.json` has the name)",
    "files": "are in `videos/`; `video.path` is relative to this folder",
}

_CARD = """---
{front}---

# Interleaved videos: {source}

Videos cut into clips, in order, each with its caption and its speech. One row is one video.

```python
from datasets import load_dataset

for row in load_dataset("THIS_FOLDER_OR_REPOSITORY", split="train", streaming=True):
    for clip in {clips}:
        if clip["keep"]:
            print(clip["start_s"], clip["end_s"], clip["caption"])
```

The videos {where}.
Clips that a filter rejected, and duplicates of other videos, stay in the rows with `keep: false` and a `drop_reason`.

## Statistics

A document is a video with at least one clip that was kept; clips and captions below are the kept ones.

{statistics}

{details}

## Dropped clips

{drops}

## Damaged files

{faults}

## Licences

As stated for each source; the build does not check them.

{licenses}

## Limits

{limits}

## How it was built

By `cosmo build` with the recipe `{recipe_name}`, through the stages {stages}:

```yaml
{recipe}```

Facts about the stages that are the same for every record (`provenance` has the rest):

```yaml
{tools}```
"""
