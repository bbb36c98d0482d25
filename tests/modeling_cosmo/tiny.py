"""Tiny random towers of the same classes as real ones, with a tokenizer that knows a few words."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor


SENTENCES = ["a red star rolls left in front of the bricks", "a blue ring grows before the sea"]
LANGUAGE_MODELS = {
    "opt": {"ffn_dim": 20, "word_embed_proj_dim": 12, "dropout": 0.1},
    "gpt_neox": {"intermediate_size": 20, "tie_word_embeddings": False, "hidden_dropout": 0.1},
    "mistral": {"intermediate_size": 20, "num_key_value_heads": 1, "sliding_window": None},
    "llama": {"intermediate_size": 20, "num_key_value_heads": 1},
    "qwen2": {"intermediate_size": 20, "num_key_value_heads": 1},
}
_GROUPED = {"intermediate_size": 20, "num_key_value_heads": 1}
FURTHER_LANGUAGE_MODELS = {
    "bloom": {},
    "falcon": {"alibi": True},
    "gemma": _GROUPED | {"head_dim": 6},
    "gemma3_text": _GROUPED | {"head_dim": 6},
    "glm": _GROUPED | {"head_dim": 6},
    "gpt2": {"n_inner": 20},
    "gpt_neo": {"intermediate_size": 20, "attention_types": [[["global"], 4]]},
    "granite": _GROUPED,
    "mixtral": _GROUPED | {"num_local_experts": 2},
    "mpt": {"max_seq_len": 64},
    "olmo2": _GROUPED,
    "phi3": _GROUPED,
    "qwen3": _GROUPED | {"head_dim": 6},
    "qwen3_5_text": _GROUPED
    | {
        "head_dim": 8,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
    },
    "smollm3": _GROUPED,
    "starcoder2": _GROUPED,
}
"""Tested in test_backbones.py alone."""


def tiny_vision():
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=10, intermediate_size=14, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    return CLIPVisionModel(config).eval()


def tiny_language_model(kind):
    torch.manual_seed(2)
    config = AutoConfig.for_model(
        kind, vocab_size=len(tiny_tokenizer()), hidden_size=12, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=1, pad_token_id=0,
        **(LANGUAGE_MODELS | FURTHER_LANGUAGE_MODELS)[kind],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tiny_tokenizer():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def build(kind, processor=None, **options):
    """Build a model from tiny towers; the option `vision` replaces the tiny vision tower."""
    small = {"resampler_depth": 2, "num_visual_tokens": 5, "shared_dim": 7, "cross_attention_heads": 2}
    towers = {"vision": tiny_vision(), "text": tiny_language_model(kind)}
    processor = processor or CosmoProcessor.from_towers(towers["vision"], tiny_tokenizer())
    return CosmoForConditionalGeneration.from_towers(**towers | {"processor": processor} | small | options).eval()


def open_gates(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                parameter.fill_(0.8)
    return model
