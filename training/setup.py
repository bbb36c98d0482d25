"""Prepare what a config names for the loop: corpus, model, batches."""

from importlib import resources
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from dataset_builder.build import build_corpus
from dataset_builder.recipe import load_recipe
from dataset_builder.toy.videos import write_toy_videos
from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from training.config import TOY, TrainingConfig
from training.data.batches import Batches
from training.data.clips import load_clips
from training.data.collate import Collator
from training.data.features import CachedFeatures, DecodedPixels, VisualInputs, features_path, write_features
from training.data.samples import build_sources


TOY_CORPUS_SEED = 0


def prepare_corpus(config: TrainingConfig, output: Path) -> Path:
    """Return the corpus folder; render and build `toy` in the run folder if missing.

    Raises:
        ValueError: if there is no such corpus.
    """
    if config.corpus != TOY:
        folder = Path(config.corpus)
        if not (folder / "data").is_dir():
            raise ValueError(f"corpus={folder}: no corpus there; `cosmo build VIDEOS --output {folder}` writes one")
        return folder
    videos, corpus = output / "toy" / "videos", output / "toy" / "corpus"
    if not (corpus / "README.md").is_file():
        workers = config.preprocessing_num_workers
        write_toy_videos(videos, config.toy_videos, TOY_CORPUS_SEED, workers=workers)
        build_corpus(videos, corpus, load_recipe(TOY), workers=workers)
    return corpus


def build_model(config: TrainingConfig) -> tuple[CosmoForConditionalGeneration, CosmoProcessor]:
    """Load a saved model, or make a new one from two towers; freeze the towers in both cases.

    Raises:
        ValueError: if a model option has the wrong type or contradicts the towers.
        OSError: if a folder or id holds no model.
    """
    if config.model:
        model = CosmoForConditionalGeneration.from_pretrained(config.model)
        processor = CosmoProcessor.from_pretrained(config.model)
        processor.num_frames = config.num_frames
    else:
        vision, text = tower_path(config.vision, "clip"), tower_path(config.text, "opt")
        processor = CosmoProcessor.from_towers(vision, text, num_frames=config.num_frames)
        try:
            model = CosmoForConditionalGeneration.from_towers(vision, text, processor, **config.cosmo_options)
        except StrictDataclassError as error:  # not a ValueError, and several lines long
            raise ValueError(" ".join(str(error).split())) from None
    model.freeze_towers()
    return model, processor


def tower_path(name: str, shipped: str) -> str:
    """Return a tower's folder or id; `toy` is the one that the package ships."""
    return str(resources.files("dataset_builder") / "toy" / "towers" / shipped) if name == TOY else name


def describe_parameters(model: nn.Module) -> str:
    """Say in one line how many parameters train, and their share of all."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"training {trained:,} of {total:,} parameters ({trained / total:.1%})"


def build_batches(
    corpus: Path,
    split: str,
    model: Any,
    processor: Any,
    config: TrainingConfig,
    output: Path,
    accelerator: Accelerator,
) -> Batches:
    """Build the batches of one corpus split; the first process writes the features if they are missing."""
    table = load_clips(corpus, split)
    visual_inputs: VisualInputs = DecodedPixels(table, processor, config.num_frames * config.frame_choices)
    if config.cache_features:
        path = features_path(table, model, processor, config, Path(config.cache_dir or output / "cache"))
        with accelerator.main_process_first():
            if not path.is_file():
                write_features(path, table, model, processor, config)
        visual_inputs = CachedFeatures(path)
    collator = Collator(processor, visual_inputs, config.max_length)
    sources = build_sources(table, config)
    return Batches(sources, collator, config, accelerator.num_processes, accelerator.process_index)
