"""Fine-tune a CosMo model on the clips of a corpus with transformers' `Trainer`, with or without LoRA.

`cosmo train` is our own loop for pretraining, with mixed sources and cached features. This program works as users of
transformers expect: settings are `TrainingArguments`, adapters are PEFT's, checkpoints are `Trainer`'s.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dataset_builder.atomic import recover, replacing_folder, write_whole
from dataset_builder.corpus.reading import splits_among
from modeling_cosmo import CosmoDataCollator
from training.config import check_numbers, config_from_dict, model_option_names
from training.data.clips import ClipTable, corpus_digest, load_clips
from training.run_folder import check_same_data, environment
from training.setup import build_model


class Adapter(StrEnum):
    """Modules that get LoRA."""

    none = "none"
    language_model = "language_model"
    cross_attention = "cross_attention"
    both = "both"


TARGETS = {
    Adapter.language_model: r".*language_model.*decoder_layer.*(q_proj|v_proj|query_key_value|c_attn|Wqkv)",
    Adapter.cross_attention: r".*cross_attention\.attention\.(q_proj|v_proj)",
}
TARGETS[Adapter.both] = f"({TARGETS[Adapter.language_model]})|({TARGETS[Adapter.cross_attention]})"
"""Patterns of module names; they do not match the vision tower's projections, which have the same last names."""
NEW_PARTS = ("resampler", "cross_attention", "text_pool", "text_projection", "vision_projection", "new_tokens")
"""Parts that CosMo adds to the towers, by their names in PEFT's `modules_to_save`."""
SHAPING = ("model", "vision", "text", "adapter", "rank", "adapter_only", "num_frames")
"""Settings that must not change after the first checkpoint, besides the options of the model."""
NOT_TAKEN = {
    "output_dir": "--output names the folder",
    "remove_unused_columns": "the collator makes inputs from the samples' columns of text and media",
    "resume_from_checkpoint": "the same command continues from the last whole checkpoint in --output",
    "label_smoothing_factor": "Trainer would compare each label with the logits at its own position",
}
"""Fields of `TrainingArguments` that are refused here, and why."""
ENVIRONMENT = "environment.json"
DEFAULTS: Mapping[str, Any] = {
    "max_steps": 200,
    "per_device_train_batch_size": 16,
    "learning_rate": 2e-4,
    "warmup_steps": 10,
    "lr_scheduler_type": "cosine",
    "logging_steps": 10,
    "save_steps": 100,
    "save_total_limit": 2,
}
"""Values of `TrainingArguments` that replace transformers' defaults; the caller's options win."""


class Clips(Dataset[dict[str, Any]]):
    """Kept clips of a corpus split in the form that `CosmoDataCollator` takes, decoded on request."""

    def __init__(self, table: ClipTable, processor: Any, num_frames: int) -> None:
        self.table, self.processor, self.num_frames = table, processor, num_frames

    def __len__(self) -> int:
        return self.table.num_clips

    def __getitem__(self, index: int) -> dict[str, Any]:
        frames = torch.from_numpy(self.table.decode([index], self.num_frames)[0])
        return {"text": self.processor.interleave([self.table.captions[index]]), "videos": [frames]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Settings of a fine-tuning run."""

    corpus: str
    """Folder written by `cosmo build`."""
    output: Path
    """Folder for checkpoints, `adapter/` if there is one, and `model/`."""
    model: str = ""
    """Folder or id of a CosMo model; empty: start from two towers."""
    vision: str = ""
    """Folder or id of the vision tower, or `toy` for the shipped one."""
    text: str = ""
    """Folder or id of the language model, or `toy` for the shipped one."""
    adapter: Adapter = Adapter.language_model
    """Modules that get LoRA."""
    rank: int = 8
    """Rank of LoRA's matrices; their product is scaled by 2, as in the released options (alpha 16 at rank 8)."""
    adapter_only: bool = False
    """Whether to train only the adapter, and keep the parts between the towers as they are."""
    num_frames: int = 6
    """Frames of a clip that the model sees."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values of `TrainingArguments`, and of `CosmoConfig` if the model starts from two towers."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}: expected 1 or more")
        for key, reason in NOT_TAKEN.items():
            if self.options.get(key):
                raise ValueError(f"{key}={self.options[key]} is not possible here: {reason}")
        if self.adapter_only and self.adapter is Adapter.none:
            raise ValueError("adapter_only without an adapter leaves nothing to train: choose where LoRA goes")
        if self.adapter_only and not self.model:
            raise ValueError("adapter_only needs model: the parts between two towers start untrained")
        if self.adapter in (Adapter.cross_attention, Adapter.both) and not self.model:
            raise ValueError(
                f"adapter={self.adapter} needs model: the blocks on two towers start untrained and closed"
            )


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` words.

    Raises:
        ValueError: for a word without `=`, a key that neither `TrainingArguments` nor `CosmoConfig` has, or a value
            of the wrong type.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init} | model_option_names()
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"expected key=value, found '{word}'")
        if key not in known:
            raise ValueError(f"unknown key {key}: neither TrainingArguments nor CosmoConfig has such a field")
        values[key] = yaml.safe_load(value)
    arguments = {key: value for key, value in values.items() if key not in model_option_names()}
    return values | check_numbers(arguments, get_type_hints(TrainingArguments))


def finetune(settings: FinetuneSettings) -> Path:
    """Train, from the last checkpoint in the output folder if there is one, and save.

    Args:
        settings: settings of the run.

    Returns:
        The folder with the model; adapters are merged into it.

    Raises:
        ValueError: if a corpus, model or option does not fit.
        OSError: if a folder or id holds no model.
    """
    if not (Path(settings.corpus) / "data").is_dir():
        raise ValueError(f"corpus={settings.corpus}: no corpus there; `cosmo build VIDEOS --output DIR` writes one")
    check_same_model(settings)
    settings.output.mkdir(parents=True, exist_ok=True)
    arguments = training_arguments(settings)
    set_seed(arguments.seed)
    model, processor = load(settings)
    train, validation = (load_split(settings, processor, split) for split in ("train", "validation"))
    if settings.adapter is not Adapter.none:
        model = add_lora(model, settings)
    trainer = Trainer(
        model,
        arguments,
        data_collator=CosmoDataCollator(processor),
        train_dataset=train,
        eval_dataset=validation,
    )
    if trainer.is_world_process_zero():
        recover(settings.output)
        print(model.trainable_parts())  # noqa: T201 (shows what trains before a long run)
        write_environment(settings, arguments)
    trainer.train(resume_from_checkpoint=last_checkpoint(settings.output))
    if validation is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    return save(trainer, processor, settings)


def training_arguments(settings: FinetuneSettings) -> TrainingArguments:
    """Build `TrainingArguments` from the caller's options, then our defaults, then transformers'."""
    values = {key: value for key, value in settings.options.items() if key not in model_option_names()}
    epochs = {"max_steps": -1} if "num_train_epochs" in values else {}
    fixed = {"remove_unused_columns": False, "output_dir": str(settings.output)}
    here = {"use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": torch.cuda.is_available()}
    try:
        return TrainingArguments(**{"report_to": "none", **DEFAULTS, **epochs, **here, **values, **fixed})
    except (TypeError, ValueError) as error:
        raise ValueError(f"TrainingArguments refused the options: {' '.join(str(error).split())}") from None


def load(settings: FinetuneSettings) -> tuple[Any, Any]:
    """Load the model, with frozen towers, and the processor."""
    options = {key: value for key, value in settings.options.items() if key in model_option_names()}
    if not settings.model:
        options = {"train_new_tokens": True, "max_frames": settings.num_frames} | options
    given = {"model": settings.model, "vision": settings.vision, "text": settings.text}
    config = config_from_dict({"corpus": settings.corpus, "num_frames": settings.num_frames, **given, **options})
    model, processor = build_model(config)
    if 0 < (most := model.config.max_frames) < settings.num_frames:
        raise ValueError(f"num_frames={settings.num_frames} is more than the model's max_frames={most}")
    return model, processor


def load_split(settings: FinetuneSettings, processor: Any, split: str) -> Clips | None:
    """Load the clips of a split; return `None` if the corpus has no such split and training does not need it."""
    splits = splits_among(path.name for path in Path(settings.corpus, "data").iterdir())
    if split != "train" and split not in splits:
        return None
    return Clips(load_clips(settings.corpus, split), processor, settings.num_frames)


def add_lora(model: Any, settings: FinetuneSettings) -> Any:
    """Wrap the model with PEFT; the parts between the towers train too, unless `adapter_only` is set."""
    present = [part for part in NEW_PARTS if any(part in name.split(".") for name, _ in model.named_modules())]
    beside = [part for part in present if part != "cross_attention" or settings.adapter is Adapter.language_model]
    return get_peft_model(
        model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=2 * settings.rank,
            target_modules=TARGETS[settings.adapter],
            modules_to_save=None if settings.adapter_only else beside,
        ),
    )


def last_checkpoint(output: Path) -> str | None:
    """Return the last whole checkpoint; after a kill, the file that `Trainer` writes last may be missing or torn."""
    names = (path for path in output.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal())
    whole = {int(path.name.rpartition("-")[2]): str(path) for path in names if _is_whole(path)}
    return whole[max(whole)] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return True


def check_same_model(settings: FinetuneSettings) -> None:
    """Refuse an output folder with checkpoints of another model or adapter.

    Raises:
        ValueError: with the first setting that differs.
    """
    path = settings.output / ENVIRONMENT
    if not path.is_file() or last_checkpoint(settings.output) is None:
        return
    begun, wanted = (found | found["options"] for found in (read_settings(path), to_dict(settings)))
    for key in (*SHAPING, *sorted(model_option_names())):
        if begun.get(key) != wanted.get(key):
            found = f"{key}={begun.get(key)}, not {wanted.get(key)}"
            raise ValueError(f"{settings.output} was started with {found}: choose another --output")


def read_settings(environment_file: Path) -> dict[str, Any]:
    """Read the settings of an earlier run.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        settings: dict[str, Any] = json.loads(environment_file.read_text())["settings"]
    except (ValueError, KeyError):
        raise ValueError(f"{environment_file} is damaged: choose another --output") from None
    return settings


def to_dict(settings: FinetuneSettings) -> dict[str, Any]:
    """Return the settings as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))  # YAML has dates
    return values


def write_environment(settings: FinetuneSettings, arguments: TrainingArguments) -> None:
    """Write `environment.json`: what the result depends on.

    Raises:
        ValueError: if there are checkpoints of a run on different data.
    """
    digest = corpus_digest(settings.corpus, "train")
    if last_checkpoint(settings.output):
        check_same_data(settings.output / ENVIRONMENT, digest)
    found = environment(arguments.seed, digest) | {"settings": to_dict(settings)}
    write_whole(settings.output / ENVIRONMENT, json.dumps(found, indent=2) + "\n")


def save(trainer: Trainer, processor: Any, settings: FinetuneSettings) -> Path:
    """Write `adapter/`, if there is one, and `model/`."""
    folder, model = settings.output / "model", trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_world_process_zero():
        if settings.adapter is not Adapter.none:
            with replacing_folder(settings.output / "adapter") as partial:
                model.save_pretrained(partial)
            model = model.merge_and_unload()
        with replacing_folder(folder) as partial:
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
    trainer.accelerator.wait_for_everyone()
    return folder
