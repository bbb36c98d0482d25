"""Captioning models of real classes with tiny random weights and real processors: their words are nonsense."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil


WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "star", "rolls", "left", "picture", "of"]
TINY: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def tokenizer(extra: Sequence[str] = (), **options: Any) -> PreTrainedTokenizerFast:
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
        **options,
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


def write_blip2(folder: Path) -> None:
    """Four query tokens instead of 32; the picture comes before the text as placeholder tokens."""
    words = tokenizer()
    pictures = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = Blip2Processor(pictures, words, num_query_tokens=4)  # adds `<image>` to the tokenizer
    text = OPTConfig(
        vocab_size=len(words),
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = Blip2Config(
        vision_config=TINY | {"image_size": 32, "patch_size": 8},
        qformer_config=TINY | {"encoder_hidden_size": 16, "vocab_size": 20, "cross_attention_frequency": 1},
        text_config=text,
        num_query_tokens=4,
        image_token_index=len(words) - 1,
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def write_florence2(folder: Path) -> None:
    """With location tokens, as in the published tokenizer; 1 x 1 grid, so two picture tokens."""
    question = ["What", "does", "the", "image", "describe", "?"]
    words = tokenizer(question, extra_special_tokens={"image_token": "<image>"})
    words.add_tokens([AddedToken(f"<loc_{place}>", special=True) for place in range(1000)])
    pictures: Any = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pictures.image_seq_length = 2
    tasks: dict[str, Any] = {"pure_text": {}, "description_with_bboxes": {}}
    processor = Florence2Processor(pictures, words, post_processor_config=tasks)
    vision: dict[str, Any] = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 8, 8, 16),
        "num_heads": (2, 2, 2, 2),
        "num_groups": (2, 2, 2, 2),
        "window_size": 2,
        "projection_dim": 16,
    }
    text = BartConfig(
        vocab_size=len(words),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=words.image_token_id)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
