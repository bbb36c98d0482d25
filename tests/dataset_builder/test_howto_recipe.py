"""The shipped recipe howto_interlink, unchanged, with tiny random checkpoints of the architectures that it names."""

from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import Qwen2Config, Qwen2ForCausalLM

from dataset_builder import build_corpus, load_recipe
from dataset_builder.toy.videos import write_toy_videos
from tests.dataset_builder.tiny_captioners import WORDS, tokenizer, write_blip2, write_florence2
from tests.dataset_builder.tiny_whisper import write_whisper


TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


def write_qwen2(folder: Path) -> None:
    torch.manual_seed(1)
    layer: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(WORDS), num_hidden_layers=1, **layer, **ids)).save_pretrained(folder)
    words = tokenizer()
    words.chat_template, words.model_max_length = TEMPLATE, 4096
    words.save_pretrained(folder)


def test_every_stage_of_howto_interlink_runs(tmp_path):
    """The tower is the shipped one, a CLIP like the recipe's; the others are random and produce nonsense."""
    checkpoints = {}
    for name, write in {
        "speech.checkpoint": write_whisper,
        "look.checkpoint": write_blip2,
        "look.regions_checkpoint": write_florence2,
        "narrate.checkpoint": write_qwen2,
    }.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        checkpoints[name] = str(tmp_path / name)
    write_toy_videos(tmp_path / "in", num_videos=3, seed=2, workers=1, progress=False)
    for path in (tmp_path / "in/train").glob("*.vtt"):  # Whisper listens to this one
        path.unlink()
    overrides = {"segment.tower": "toy", "narrate.cache": str(tmp_path / "cache"), "narrate.attempts": 1}
    overrides |= {
        "look.max_new_tokens": 5,
        "look.regions_max_new_tokens": 20,
        "narrate.max_new_tokens": 10,
    }  # few places
    recipe = load_recipe("howto_interlink", overrides | checkpoints)
    summary = build_corpus(tmp_path / "in", tmp_path / "out", recipe, workers=1, progress=False)
    assert summary.exit_code == 0
    assert summary.num_videos == {"train": 1, "validation": 1, "test": 1}
    stages = ["probe", "segment", "speech", "look", "narrate", "score", "filter"]
    for split in summary.num_videos:
        (row,) = load_dataset(str(tmp_path / "out"), split=split, streaming=True)
        assert sorted(row["provenance"]) == sorted(stages)
        assert all(clip["keep"] or clip["drop_reason"] for clip in row["clips"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "num_clusters: 1024" in card
    assert str(tmp_path) not in card
