"""A tiny corpus of real toy videos and tiny towers of the real classes, made once per session."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from dataset_builder.corpus.shards import write_shard
from dataset_builder.recipe import ShardSettings
from dataset_builder.schema import Clip, InterleavedVideo
from dataset_builder.toy.videos import write_toy_videos


NUM_VIDEOS = 13
VISION_WIDTH, PATCHES = 20, 4  # 32 px frames in patches of 16


def record_of(path: Path, split: str) -> InterleavedVideo:
    """Return a toy video as the builder would record it if it cut without errors."""
    truth = json.loads(path.read_text())
    clips = [
        Clip(start_s=step["start_s"], end_s=step["end_s"], caption=step["caption"], keep=number != 1)
        for number, step in enumerate(truth["steps"])
    ]
    return InterleavedVideo(
        video_id=truth["video_id"],
        video_bytes=path.with_suffix(".mp4").read_bytes(),
        duration_s=truth["duration_s"],
        source=f"toy {split}",
        clips=tuple(clips),
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Corpus folder with train and validation; the second clip of every video is dropped."""
    root = tmp_path_factory.mktemp("training")
    write_toy_videos(root / "videos", NUM_VIDEOS, seed=3, workers=1, progress=False)
    for split, folder in {"train": "train", "validation": "test"}.items():
        records = [record_of(path, split) for path in sorted((root / "videos" / folder).glob("*.json"))]
        (root / "corpus" / "data").mkdir(parents=True, exist_ok=True)
        write_shard(
            root / "corpus" / "data" / f"{split}-00000-of-00001.parquet", records, ShardSettings(embed_videos=True)
        )
    return root / "corpus"


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory):
    """A random CLIP vision tower for 32 px frames, with its image processor."""
    folder = tmp_path_factory.mktemp("towers") / "vision"
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    CLIPVisionModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A random OPT with four layers and a BPE tokenizer for toy captions, `</s>` first as OPT has it."""
    folder = tmp_path_factory.mktemp("towers") / "text"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = ["a red blue green yellow purple cyan orange white star square circle ring cross heart in front of the"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="</s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = OPTConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=24,
        word_embed_proj_dim=24,
        ffn_dim=28,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=256,
        dropout=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        init_std=0.3,  # logits far enough apart that the frozen head can say something
    )
    OPTForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def settings(corpus, vision_folder, text_folder):
    """Flat keys of a run that takes seconds; each test changes the keys that it tests."""
    return {
        "corpus": str(corpus),
        "vision": str(vision_folder),
        "text": str(text_folder),
        "unimodal_depth": 2,
        "resampler_depth": 1,
        "resampler_heads": 2,
        "resampler_head_dim": 8,
        "num_visual_tokens": 3,
        "cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "shared_dim": 11,
        "max_frames": 3,
        "num_frames": 3,
        "preprocessing_num_workers": 1,
        "per_device_train_batch_size": 6,
        "interleaved_batch_size": 4,
        "max_steps": 5,
        "warmup_steps": 2,
        "logging_steps": 2,
        "save_steps": 2,
        "learning_rate": 1e-2,
    }
