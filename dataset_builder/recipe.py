"""Recipes: the settings of each stage of a build. YAML only selects values, and only this file reads it."""

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from dataset_builder.corpus.shards import ShardSettings
from dataset_builder.stages.caption import CaptionSettings
from dataset_builder.stages.deduplicate import DeduplicateSettings
from dataset_builder.stages.filter import FilterSettings
from dataset_builder.stages.look import LookSettings
from dataset_builder.stages.narrate import RUN_KEYS, NarrateSettings
from dataset_builder.stages.score import ScoreSettings
from dataset_builder.stages.segment import SegmentSettings
from dataset_builder.stages.select import SelectSettings
from dataset_builder.stages.speech import SpeechSettings
from dataset_builder.video.limits import ProbeSettings


__all__ = [
    "CaptionSettings",
    "DeduplicateSettings",
    "FilterSettings",
    "LookSettings",
    "NarrateSettings",
    "ProbeSettings",
    "Recipe",
    "ScoreSettings",
    "SegmentSettings",
    "SelectSettings",
    "ShardSettings",
    "SpeechSettings",
    "load_recipe",
]
SHIPPED = Path(__file__).parent / "recipes"
WORD_FILES = ("sensitive_words",)  # small files whose content decides what a stage does
CORPUS_STAGES = ("deduplicate", "select", "shards")  # these see all videos; every other stage sees one at a time
MODEL_KEYS = ("tower", "checkpoint", "regions_checkpoint")  # in any stage: a folder, or the id of a repository
PATH_KEYS = (*MODEL_KEYS, *WORD_FILES, "embeddings", "captions", "prompt_file")  # files that stages read
PRIVATE_KEYS = ("endpoint", "cache", "api_key_variable")  # only about this machine: no card shows them
Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a build writes. The stages are in the order in which they run."""

    name: str
    """Name of the shipped recipe or of the file, without suffix."""
    source: str
    """Collection that the videos come from; stored in every record."""
    license: str
    """Licence of the videos, an SPDX-like id as the Hub writes it; stored in every record and in the card."""
    seed: int = 0
    """Seed of all random draws."""
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    """Quarantines videos that are too long or too large; always runs."""
    segment: SegmentSettings
    """Cuts videos into clips; always runs."""
    speech: SpeechSettings | None = None
    """Adds speech to clips; without it, their `asr` is empty."""
    look: LookSettings | None = None
    """Adds captions of single frames and of regions to clips; without it, they have none."""
    caption: CaptionSettings | None = None
    """Adds captions to clips; without it, they are empty."""
    narrate: NarrateSettings | None = None
    """Adds captions that continue from clip to clip, instead of `caption`."""
    score: ScoreSettings | None = None
    """Compares clips with captions; without it, there are no similarities."""
    filter: FilterSettings | None = None
    """Marks clips that are not worth keeping; without it, all are kept."""
    deduplicate: DeduplicateSettings | None = None
    """Marks copies of videos, captions and clips; without it, they stay."""
    select: SelectSettings | None = None
    """Marks all clips but an even draw over what they show; without it, all stay."""
    shards: ShardSettings
    """Writes the corpus; always runs."""

    def __post_init__(self) -> None:
        if self.caption and self.narrate:
            raise ValueError("caption and narrate both write the captions; set one of them to null")
        if self.filter and self.filter.needs_scores and not self.score:
            raise ValueError("filter.min_similarity and filter.misplaced_margin need the stage score")
        if self.score and not (self.score.tower or self.segment.tower):
            raise ValueError("score.tower is missing: segment has no tower that could be shared")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, in the order of the stages; None for a stage that is off."""
        return asdict(self)

    def for_one_video(self) -> dict[str, Any]:
        """The settings that a single video's record depends on, before the stages that see all videos."""
        stages = {stage: values for stage, values in self.as_dict().items() if stage not in CORPUS_STAGES}
        if self.narrate:
            stages["narrate"] = {key: value for key, value in stages["narrate"].items() if key not in RUN_KEYS}
        return stages

    def word_files(self) -> list[str]:
        """Small files that the stages name, in order."""
        stages = [values for values in self.as_dict().values() if isinstance(values, dict)]
        return [values[key] for values in stages for key in WORD_FILES if values.get(key)]

    def models(self) -> list[str]:
        """Folders and ids of the models that the stages name, in order."""
        stages = [values for values in self.as_dict().values() if isinstance(values, dict)]
        return [values[key] for values in stages for key in MODEL_KEYS if values.get(key)]


def load_recipe(name_or_file: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load a shipped recipe by its name, or your own by its file.

    Args:
        name_or_file: `toy`, `laptop`, or the path of a YAML file.
        overrides: dotted keys with values that replace those of the file, such as `{"segment.tower": "clip-vit-b32"}`.

    Raises:
        ValueError: for an unknown name or key, a value of the wrong type, or values that contradict each other.
    """
    path = SHIPPED / f"{name_or_file}.yaml"
    if not path.is_file():
        path = Path(name_or_file)
    if not path.is_file():
        names = ", ".join(sorted(shipped.stem for shipped in SHIPPED.glob("*.yaml")))
        raise ValueError(f"no recipe {str(name_or_file)!r}: neither a file nor one of the shipped {names}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} must hold keys and values, found {type(values).__name__}")
    _refuse_disorder(list(values), f"recipe {path.stem}")
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    return _read(Recipe, {"name": path.stem} | values, f"recipe {path.stem}", "")


def read_settings(kind: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """Build a settings class from the mapping in a file; all YAML is read this way.

    Raises:
        ValueError: for an unknown key, a value of the wrong type, or values that contradict each other.
    """
    return _read(kind, dict(values), where, "")


def _refuse_disorder(keys: Sequence[object], where: str) -> None:
    """Refuse a recipe whose stages are not in the order in which they run, as a recipe is read from top to bottom."""
    hints = get_type_hints(Recipe)
    order = [item.name for item in fields(Recipe) if _settings_class(hints[item.name])]
    found = [key for key in keys if key in order]
    for before, after in pairwise(found):
        if order.index(str(after)) < order.index(str(before)):
            raise ValueError(
                f"{where}: {after!r} comes after {before!r} but runs before it; the order is {', '.join(order)}"
            )


def _override(values: dict[str, Any], dotted: str, value: object) -> None:
    """Put one value into nested mappings; unknown names are refused later, when the settings are read."""
    *stages, key = dotted.split(".")
    for stage in stages:
        values = values.setdefault(stage, {})
        if not isinstance(values, dict):
            raise ValueError(f"cannot set {dotted!r}: {stage!r} holds no keys")
    values[key] = value


def _read(kind: type[Settings], values: object, where: str, prefix: str) -> Settings:
    """Build a settings class from a mapping; refuse unknown, missing and ill-typed keys by the name that was typed."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {prefix.rstrip('.')!r} must hold keys and values, found {values!r}")
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {prefix + str(key)!r}; {hint}")
    hints, read = get_type_hints(kind), {}
    for key, item in known.items():
        if key in values:
            read[key] = _value(hints[key], values[key], where, prefix + key)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{where}: the key {prefix + key!r} is missing")
    try:
        return kind(**read)
    except ValueError as error:
        raise ValueError(f"{where}: {prefix.rstrip('.') + ': ' if prefix else ''}{error}") from error


def _value(hint: Any, value: object, where: str, key: str) -> object:
    allowed = _alternatives(hint)
    settings = _settings_class(hint)
    if settings and not (value is None and type(None) in allowed):
        return _read(settings, value, where, key + ".")
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) not in allowed:
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ValueError(f"{where}: {key!r} is {value!r}; expected {names}")
    return value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a type hint allows."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _settings_class(hint: Any) -> Any:
    """The settings class among the types of a hint; None for a plain value."""
    return next((kind for kind in _alternatives(hint) if is_dataclass(kind)), None)
