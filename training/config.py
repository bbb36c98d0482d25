"""Configuration of a run: one frozen record of flat keys, from a shipped recipe or a file plus `key=value` words.

Keys that transformers' `TrainingArguments` also has are named as there. Keys of `CosmoConfig` (unimodal_depth, ...)
are accepted too; they shape the new model.
"""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from modeling_cosmo import CosmoConfig


SOURCES = ("frame_text", "clip_text", "interleaved")
TOY = "toy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run. Steps are optimizer steps; batch sizes are samples per process and micro-batch."""

    corpus: str
    """Folder written by `cosmo build`, or `toy`: the toy world, rendered and built in the run folder if missing."""
    toy_videos: int = 600
    """Number of videos to render if `corpus` is `toy`."""
    train_split: str = "train"
    validation_split: str = "validation"

    model: str = ""
    """Folder or id of a CosMo model to continue training; empty: start from `vision` and `text`."""
    vision: str = ""
    """Folder or id of the vision tower, or `toy` for the shipped one."""
    text: str = ""
    """Folder or id of the language model, or `toy` for the shipped one."""
    cosmo_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Collected from the keys of `CosmoConfig`; cannot be given itself."""

    num_frames: int = 6
    """Frames of a clip that the model sees, one from each of `num_frames` equal parts."""
    frame_choices: int = 1
    """Frames decoded per part; above 1, each draw takes one of them at random, and the cache grows by this factor."""
    max_length: int = 128
    """Tokens per sample; longer text is cut, and media whose placeholder was cut off are masked."""
    cache_features: bool = True
    """Run the frozen vision tower once per clip and train on a float16 file; false: decode and encode each draw."""
    cache_dir: str = ""
    """Folder of the features; empty: `cache/` in the run folder. Runs may share it."""
    preprocessing_num_workers: int = 2
    """Number of threads that decode clips, and of processes that make the toy corpus."""

    frame_text_weight: float = 1.0
    """Share of micro-batches, relative to the other weights, that pair one frame with its clip's caption; 0: none."""
    clip_text_weight: float = 2.0
    """Share of micro-batches with whole clips and their caption."""
    interleaved_weight: float = 1.0
    """Share of micro-batches with neighbouring clips of one video and all their captions."""
    frame_text_batch_size: int = 0
    """0 takes `per_device_train_batch_size`."""
    clip_text_batch_size: int = 0
    """0 takes `per_device_train_batch_size`."""
    interleaved_batch_size: int = 0
    """0 takes `per_device_train_batch_size`."""
    frame_text_contrastive: bool = True
    """Whether samples of one frame also count in the contrastive loss."""
    clip_text_contrastive: bool = True
    interleaved_contrastive: bool = False
    clips_per_document: int = 3
    """Maximum clips of an interleaved sample, at least 2; each micro-batch draws its number from 2 to this."""

    max_steps: int = 1000
    per_device_train_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-4
    gate_learning_rate: float = 0.0
    """Learning rate of the cross-attention gates, which start at 0 and scale all that the blocks add; 0 takes
    `learning_rate`."""
    warmup_steps: int = 50
    """Steps of linear warm-up; then a cosine falls to 0 at `max_steps`."""
    weight_decay: float = 0.1
    """Weight decay of matrices; norms, biases, gates and the temperature have none."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    seed: int = 42
    bf16: bool | Literal["auto"] = "auto"
    """Whether to autocast to bfloat16; auto: on a GPU that supports it, but not on the CPU. True is faster on a CPU
    with AMX; it then uses eager attention, whose bfloat16 backward is faster there."""

    logging_steps: int = 10
    eval_steps: int = 0
    """Steps between validations; 0: none."""
    eval_samples: int = 256
    """Samples of each source per validation."""
    save_steps: int = 500
    save_total_limit: int = 2
    """Number of newest checkpoints to keep."""

    def __post_init__(self) -> None:
        for name in (
            *(f"{source}_weight" for source in SOURCES),
            "weight_decay",
            "learning_rate",
            "gate_learning_rate",
        ):
            _require(math.isfinite(getattr(self, name)) and getattr(self, name) >= 0, self, name, "0 or more")
        for name in ("num_frames", "frame_choices", "max_steps", "per_device_train_batch_size", "toy_videos"):
            _require(getattr(self, name) >= 1, self, name, "1 or more")
        for name in ("gradient_accumulation_steps", "preprocessing_num_workers", "logging_steps", "eval_samples"):
            _require(getattr(self, name) >= 1, self, name, "1 or more")
        for name in (*(f"{source}_batch_size" for source in SOURCES), "eval_steps", "seed"):
            _require(getattr(self, name) >= 0, self, name, "0 or more")
        for name in ("save_steps", "save_total_limit"):
            _require(getattr(self, name) >= 1, self, name, "1 or more")
        _require(self.max_length >= 4, self, "max_length", "4 or more")
        _require(self.max_grad_norm > 0, self, "max_grad_norm", "above 0")
        _require(self.clips_per_document >= 2, self, "clips_per_document", "2 or more")
        _require(0 <= self.warmup_steps <= self.max_steps, self, "warmup_steps", f"0 to max_steps={self.max_steps}")
        self._check_model()
        active = [source for source in SOURCES if self.weight(source)]
        if not active:
            raise ValueError(f"nothing to train on: {', '.join(f'{source}_weight' for source in SOURCES)} are all 0")
        paired = [f"{source}_contrastive" for source in active if self.contrastive(source)]
        if paired and self.cosmo_options.get("contrastive") is False:
            raise ValueError(f"contrastive=False leaves no head for {', '.join(paired)}: set these to false as well")

    def _check_model(self) -> None:
        """Refuse options that contradict the model or the towers.

        Raises:
            ValueError: with the names of the keys.
        """
        if self.model and (self.vision or self.text or self.cosmo_options):
            clash = sorted({*self.cosmo_options, *(name for name in ("vision", "text") if getattr(self, name))})
            raise ValueError(f"model={self.model} already fixes {', '.join(clash)}: leave out one or the other")
        if not self.model and not (self.vision and self.text):
            raise ValueError("give either model, or both vision and text")
        if 0 < (max_frames := self.cosmo_options.get("max_frames") or 0) < self.num_frames:
            raise ValueError(f"num_frames={self.num_frames} is more than the model's max_frames={max_frames}")

    def weight(self, source: str) -> float:
        """Return a source's relative share of micro-batches."""
        return float(getattr(self, f"{source}_weight"))

    def batch_size(self, source: str) -> int:
        """Return the samples of a source per process and micro-batch."""
        return getattr(self, f"{source}_batch_size") or self.per_device_train_batch_size

    def contrastive(self, source: str) -> bool:
        """Return whether a source's samples count in the contrastive loss."""
        return bool(getattr(self, f"{source}_contrastive"))

    def to_dict(self) -> dict[str, Any]:
        """Return flat keys in the order of the fields, the model's options last, as `load_config` reads them."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if key != "cosmo_options"} | values["cosmo_options"]


def load_config(name_or_file: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a shipped recipe (`toy`) or a YAML file, then apply `key=value` words.

    Raises:
        ValueError: in one line, for a missing recipe, an unknown key, a value of the wrong type, an override without
            `=`, or keys that contradict each other.
    """
    values = read_yaml(name_or_file)
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"expected key=value, found '{word}'")
        values[key] = yaml.safe_load(value)
    return config_from_dict(values)


def read_yaml(name_or_file: str) -> dict[str, Any]:
    """Read the keys of a recipe without checking them; see `load_config`."""
    shipped = resources.files("training") / "recipes"
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"config file {path} does not exist")
        text = path.read_text()
    elif (shipped / f"{name_or_file}.yaml").is_file():
        text = (shipped / f"{name_or_file}.yaml").read_text()
    else:
        raise ValueError(f"no recipe '{name_or_file}'; shipped: {', '.join(shipped_recipes())}; a file ends in .yaml")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"config {name_or_file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"config {name_or_file} holds {type(values).__name__}, expected keys and values")
    return values


def shipped_recipes() -> list[str]:
    """Return the recipe names that `--config` takes."""
    names = (Path(entry.name) for entry in (resources.files("training") / "recipes").iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml")


def config_from_dict(values: Mapping[str, Any]) -> TrainingConfig:
    """Split flat keys into ours and those of `CosmoConfig`, and check the type of each value.

    Raises:
        ValueError: for an unknown key, a missing `corpus`, a wrong type, or a contradiction.
    """
    hints = get_type_hints(TrainingConfig)
    hints.pop("cosmo_options")
    cosmo_keys = model_option_names()
    unknown = [key for key in values if key not in hints and key not in cosmo_keys]
    if unknown:
        raise ValueError(f"unknown config key {unknown[0]}; known: {', '.join(sorted([*hints, *cosmo_keys]))}")
    if not values.get("corpus"):
        raise ValueError("corpus is missing: the folder that `cosmo build` wrote, or toy")
    ours = {key: _checked(key, value, hints[key]) for key, value in values.items() if key in hints}
    options = check_numbers(
        {key: value for key, value in values.items() if key in cosmo_keys}, CosmoConfig.__annotations__
    )
    return TrainingConfig(**ours, cosmo_options=options)


def model_option_names() -> frozenset[str]:
    """Return the fields that `CosmoConfig` itself declares, except tower configs and token ids, set by the towers."""
    own = CosmoConfig.__annotations__
    names = (field.name for field in dataclasses.fields(CosmoConfig))
    return frozenset(name for name in names if name in own and not name.endswith(("_config", "_id")))


def check_numbers(values: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, after checking those of numeric and boolean fields with `_checked`.

    Raises:
        ValueError: with key, value and expected type.
    """
    simple = {int, float, bool, types.NoneType}
    checked = {key: _checked(key, values[key], hint) for key, hint in hints.items()
               if key in values and {*(get_args(hint) or [hint])} <= simple}  # fmt: skip
    return {**values, **checked}


def _checked(key: str, value: Any, hint: Any) -> Any:
    """Return the value if it has the field's type; a float may be a whole number, or `5e-4`, which YAML reads as text.

    Raises:
        ValueError: with key, value and expected type.
    """
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for choice in choices:
        if get_origin(choice) is Literal and value in get_args(choice):
            return value
        if choice is float and not isinstance(value, bool):
            try:
                return float(value)
            except (TypeError, ValueError):
                continue
        if choice is str and isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        if isinstance(choice, type) and type(value) is choice:
            return value
    expected = " or ".join("|".join(get_args(choice)) or choice.__name__ for choice in choices)
    raise ValueError(f"{key}={value!r}: expected {expected}")


def _require(holds: bool, config: TrainingConfig, name: str, expected: str) -> None:
    """Raise `ValueError` with the name that the user typed, unless the condition holds."""
    if not holds:
        raise ValueError(f"{name}={getattr(config, name)}: expected {expected}")
