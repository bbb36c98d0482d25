"""Real captioning classes with tiny random weights: the words are nonsense, the path is the real one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.caption_checkpoint import CheckpointCaptioner
from dataset_builder.inputs import SourceVideo
from tests.dataset_builder.make_videos import encode, story


WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "star", "rolls", "left", "picture", "of"]
TINY: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def tokenizer(extra: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate([*WORDS, *extra])}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        model_max_length=64,
    )


def write_blip(folder: Path) -> None:
    text = TINY | {
        "vocab_size": len(WORDS),
        "bos_token_id": 1,
        "sep_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = BlipConfig(text_config=text, vision_config=TINY | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer()).save_pretrained(folder)


def write_git(folder: Path) -> None:
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = GitConfig(vision_config=TINY | {"image_size": 32, "patch_size": 8}, vocab_size=len(WORDS), **TINY, **ids)
    GitForCausalLM(config).save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    GitProcessor(pictures, tokenizer()).save_pretrained(folder)


def write_vit_gpt2(folder: Path) -> None:
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    decoder = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=64, **ids)
    encoder = ViTConfig(**TINY, image_size=32, patch_size=8)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=1, pad_token_id=0, eos_token_id=2
    )
    VisionEncoderDecoderModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def write_llava(folder: Path) -> None:
    """A chat model: the question goes through its template, with a place for the picture."""
    words = tokenizer(extra=["USER", "ASSISTANT"])
    words.add_tokens(["<image>"], special_tokens=True)
    text = LlamaConfig(**TINY, vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    vision = CLIPVisionConfig(**TINY, image_size=32, patch_size=8)
    image_token = len(words) - 1
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token, vision_feature_layer=-1
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template="{% for m in messages %}USER <image> {{ m['content'][1]['text'] }} ASSISTANT {% endfor %}",
    ).save_pretrained(folder)


@pytest.mark.parametrize(
    ("write", "prompt"),
    [
        (write_blip, ""),
        (write_blip, "a picture of"),
        (write_git, ""),
        (write_git, "a picture of"),
        (write_vit_gpt2, ""),
        (write_llava, "a picture of"),
    ],
)
def test_any_image_to_text_checkpoint_captions_every_clip(tmp_path, write, prompt):
    torch.manual_seed(0)
    write(tmp_path / "captioner")
    path = encode(tmp_path / "v.mp4", story(0))
    source = SourceVideo(split="train", video_id="v", path=path, name="v.mp4", subtitles=None, truth=None)
    captioner = CheckpointCaptioner(str(tmp_path / "captioner"), prompt, max_new_tokens=5)
    clips = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    captions = captioner(source, clips, [""] * 3)
    assert len(captions) == 3
    for said in captions:
        assert said.frame_captions == (said.caption,)
        assert set(said.caption.split()) <= set(WORDS[4:]) | {"[UNK]"}
        assert len(said.caption.split()) <= 5 + 3  # new words, and BLIP repeats the prompt as the caption's begin
    assert captions == captioner(source, clips, [""] * 3)  # greedy: the same words each time
    facts = captioner.provenance()
    assert facts["checkpoint"] == "captioner"
    assert facts["prompt"] == prompt
    assert str(tmp_path) not in str(facts)


def test_what_is_no_captioner_is_refused_in_one_line(tower_dir):
    with pytest.raises(ValueError, match="cannot load the captioner") as refusal:
        CheckpointCaptioner(str(tower_dir), "", 5)
    assert "\n" not in str(refusal.value)


def test_a_recipe_runs_a_checkpoint(tmp_path, tower_dir):
    write_blip(tmp_path / "captioner")
    encode(tmp_path / "in" / "v.mp4", story(0))
    overrides = {
        "segment.tower": str(tower_dir),
        "caption.captioner": "checkpoint",
        "caption.checkpoint": str(tmp_path / "captioner"),
        "caption.max_new_tokens": 3,
        "filter.min_caption_words": 0,
        "filter.drop_repeated_captions": False,
    }
    build_corpus(tmp_path / "in", tmp_path / "out", load_recipe("laptop", overrides), workers=1, progress=False)
    (record,) = read_corpus(tmp_path / "out", "train")
    assert record.provenance["caption"]["checkpoint"] == "captioner"
    assert all(clip.frame_captions == (clip.caption,) for clip in record.clips)
