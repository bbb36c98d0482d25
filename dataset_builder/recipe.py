"""Recipes: which settings each stage of a build runs with. YAML only selects values; this file is what reads it."""

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml


SHIPPED = Path(__file__).parent / "recipes"
CAPTIONERS = ("truth", "speech", "checkpoint")
Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """How a video is cut into clips: kernel temporal segmentation (KTS) on embeddings of sampled frames."""

    tower: str | None = "toy"
    """Folder of a CLIP- or SigLIP-type model whose pictures' embeddings are compared; `toy` is the shipped one."""
    embeddings: str | None = None
    """Folder with one `VIDEO_ID.npy` (N, D) per video, made elsewhere at the same rate, in place of a tower."""
    frame_rate_hz: float
    """Frames sampled per second of video."""
    frames_per_segment: float
    """At most one segment per this many sampled frames."""
    penalty: float
    """Price of a border (`vmax` in the literature): larger gives fewer clips; 0 gives as many as allowed."""
    min_clip_s: float = 0.0
    """No clip is shorter, in seconds (a video that is shorter is one clip)."""
    max_clip_s: float | None = None
    """No clip is longer, in seconds."""

    def __post_init__(self) -> None:
        _positive(self, "frame_rate_hz", "frames_per_segment")
        if self.penalty < 0 or self.min_clip_s < 0:
            raise ValueError("penalty and min_clip_s must not be negative")
        if (self.tower is None) == (self.embeddings is None):
            raise ValueError("give one of tower and embeddings (set the other to null)")
        shortest_s = max(self.min_clip_s, 1 / self.frame_rate_hz)
        if self.max_clip_s is not None and self.max_clip_s < 2 * shortest_s:
            raise ValueError(
                f"max_clip_s is {self.max_clip_s}, but clips of at least {shortest_s:g} s (min_clip_s, or one frame) "
                f"fill every length only if max_clip_s is at least {2 * shortest_s:g}"
            )


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """Who writes the captions."""

    captioner: str
    """`truth` reads the toy world's JSON, `speech` repeats what is said, `checkpoint` runs a model."""
    noise: float = 0.0
    """truth: share of captions, 0 to 1, replaced by another step's."""
    checkpoint: str | None = None
    """checkpoint: folder or id of a transformers image-to-text or image-text-to-text model."""
    prompt: str = ""
    """checkpoint: what the model is asked, for models that take text."""
    max_new_tokens: int = 40
    """checkpoint: the longest caption, in tokens."""

    def __post_init__(self) -> None:
        if self.captioner not in CAPTIONERS:
            raise ValueError(f"captioner is {self.captioner!r}; expected one of {', '.join(CAPTIONERS)}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}; expected a share from 0 to 1")
        if self.noise and self.captioner != "truth":
            raise ValueError(f"noise is for captioner: truth, not for captioner: {self.captioner}")
        if (self.checkpoint is not None) != (self.captioner == "checkpoint"):
            raise ValueError(f"captioner: {self.captioner} with checkpoint: {self.checkpoint} contradict each other")
        if self.prompt and self.captioner != "checkpoint":
            raise ValueError(f"prompt is for captioner: checkpoint, not for captioner: {self.captioner}")
        _positive(self, "max_new_tokens")


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """Which clips are marked as not worth keeping. They stay in the corpus, with their reason."""

    min_clip_s: float = 0.0
    """Shorter clips are dropped, in seconds."""
    min_caption_words: int = 1
    """Captions of fewer words are dropped; 0 keeps empty ones."""
    black_below: float = 0.0
    """A clip whose brightest sampled frame has a mean below this grey level (0-255) is black; 0: off."""
    static_below: float = 0.0
    """A clip of several frames is static if no two neighbours differ by this many grey levels on average; 0: off."""
    drop_repeated_captions: bool = True
    """Drop a clip whose caption an earlier clip of the same video has."""


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """How the corpus lies on disk."""

    embed_videos: bool
    """True: the shards hold the videos' bytes. False: the files are linked or copied into `videos/` beside them."""
    max_shard_mb: float = 256.0
    """A shard is closed before it grows past this (a single larger record makes a larger shard)."""
    row_group_mb: float = 16.0
    """What a reader must hold at a time."""

    def __post_init__(self) -> None:
        _positive(self, "max_shard_mb", "row_group_mb")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a build writes, stage by stage."""

    name: str
    """Name of the shipped recipe or of the file, without suffix."""
    source: str
    """Which collection the videos come from; stands in every record."""
    license: str
    """Licence of the videos, an SPDX-like id as the Hub writes it; stands in every record and in the card."""
    seed: int = 0
    """Seed of all that is drawn by chance."""
    segment: SegmentSettings
    caption: CaptionSettings
    filter: FilterSettings = field(default_factory=FilterSettings)
    shards: ShardSettings

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, in the order of the stages."""
        return asdict(self)


def load_recipe(name_or_file: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A shipped recipe by its name, or one of your own by its file.

    Args:
        name_or_file: `toy`, `laptop`, or the path of a YAML file.
        overrides: dotted keys with values that replace the file's, such as `{"segment.tower": "clip-vit-b32"}`.

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
        raise ValueError(f"recipe {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} must hold keys and values, found {type(values).__name__}")
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    return _read(Recipe, {"name": path.stem} | values, f"recipe {path.stem}", "")


def _override(values: dict[str, Any], dotted: str, value: object) -> None:
    """Put one value into nested mappings; unknown names are left to the reader, which refuses them."""
    *stages, key = dotted.split(".")
    for stage in stages:
        values = values.setdefault(stage, {})
        if not isinstance(values, dict):
            raise ValueError(f"cannot set {dotted!r}: {stage!r} holds no keys")
    values[key] = value


def _read(kind: type[Settings], values: object, where: str, prefix: str) -> Settings:
    """Build a settings class from a mapping, refusing unknown, missing and ill-typed keys by the name typed."""
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
    if is_dataclass(hint):
        return _read(hint, value, where, key + ".")  # type: ignore[arg-type]
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) not in allowed:
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ValueError(f"{where}: {key!r} is {value!r}; expected {names}")
    return value


def _positive(settings: object, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} is {getattr(settings, name)}; expected more than 0")
