"""A whole CosMo, saved as users would find it but small enough for tests: random weights, real classes."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor


SIDE_PX = 24
NUM_FRAMES = 3
TEXT = "a red star rolls left in front of the bricks while a blue ring rises over the meadow"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few words, with `</s>` first, as in OPT."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet)
    )
    core.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="</s>", eos_token="</s>")


def save_tiny_tower(folder: Path) -> Path:
    """Write a whole CLIP with its image processor, usable as a recipe's `tower`."""
    torch.manual_seed(0)
    part = {"hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config=part | {"image_size": SIDE_PX, "patch_size": 8},
        text_config=part | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2},
        projection_dim=20,
    )
    CLIPModel(config).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return folder


def make_image_processor() -> CLIPImageProcessorPil:
    """Image processor for the size of picture that the tiny towers read."""
    size = {"height": SIDE_PX, "width": SIDE_PX}
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE_PX}, crop_size=size)


def save_tiny_model(folder: Path) -> Path:
    """Write model, code and processor to a folder."""
    torch.manual_seed(0)
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=20,
            intermediate_size=28,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE_PX,
            patch_size=8,
        )
    )
    processor = CosmoProcessor.from_towers(make_image_processor(), make_tokenizer(), num_frames=NUM_FRAMES)
    text = OPTForCausalLM(
        OPTConfig(
            vocab_size=300,
            hidden_size=28,
            word_embed_proj_dim=28,
            ffn_dim=44,
            num_hidden_layers=4,
            num_attention_heads=2,
            max_position_embeddings=512,
        )
    )
    model = CosmoForConditionalGeneration.from_towers(
        vision,
        text,
        processor=processor,
        resampler_depth=1,
        resampler_heads=2,
        resampler_head_dim=10,
        num_visual_tokens=5,
        cross_attention_heads=2,
        cross_attention_head_dim=14,
        shared_dim=13,
        max_frames=NUM_FRAMES,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny CosMo with random weights\n")
    return folder
