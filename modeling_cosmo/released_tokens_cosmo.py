"""Tokenizers as the released code bases extended them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from .presets_cosmo import Format
from .processing_cosmo import CosmoProcessor
from .tokens_cosmo import END_OF_CHUNK, PADDING, VISUAL


IMAGE = "<image>"
"""OpenFlamingo's spelling of `<visual>`."""


def build_processor(tokenizer: str, form: Format, vision: str | None, vision_config: Any) -> CosmoProcessor:
    """Build a processor whose special tokens have the ids that the release gave them.

    Args:
        tokenizer: path or id of the language model's tokenizer, without the tokens of the release.
        form: which code base added the tokens.
        vision: path or id of the image processor; without one, pictures are prepared as for CLIP.
        vision_config: of the vision tower; gives the size of its pictures.

    Raises:
        ValueError: if the tokenizer cannot be given OpenFlamingo's media token.
    """
    pictures = vision if vision is not None and _has(vision, "preprocessor_config.json") else None
    processor = CosmoProcessor.from_towers(pictures or SimpleNamespace(config=vision_config), tokenizer)
    if form == "cosmo":
        return processor
    grown = _openflamingo_tokenizer(tokenizer)
    template: Any = processor.chat_template
    return CosmoProcessor(processor.image_processor, grown, num_frames=1, chat_template=template)


def has_tokenizer(text: str) -> bool:
    """Whether the folder of a language model also holds its tokenizer; a repository on the Hub is assumed to."""
    return _has(text, "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def _has(place: str, *names: str) -> bool:
    return not Path(place).is_dir() or any((Path(place) / name).is_file() for name in names)


def _openflamingo_tokenizer(tokenizer: str) -> PreTrainedTokenizerFast:
    """Add `<|endofchunk|>`, the media token, and `<PAD>` if the tokenizer has no padding token.

    The media token is spelled `<visual>` here too, so that all of CosMo can use it; `<image>` in a text means the
    same. That rule is in tokenizer.json, which transformers uses unchanged only for tokenizers of no particular model.
    """
    plain = AutoTokenizer.from_pretrained(tokenizer)
    if not isinstance(plain, PreTrainedTokenizerFast):
        raise ValueError(
            f"the tokenizer {tokenizer} is a {type(plain).__name__}, which has no tokenizer.json to add to"
        )
    added: list[str | AddedToken] = [END_OF_CHUNK, AddedToken(VISUAL, special=True, normalized=True)]
    plain.add_special_tokens({"extra_special_tokens": added}, replace_extra_special_tokens=False)
    if plain.pad_token is None:
        plain.add_special_tokens({"pad_token": PADDING})
    grown = PreTrainedTokenizerFast(
        tokenizer_object=_with_synonym(plain.backend_tokenizer),
        model_max_length=plain.model_max_length,
        padding_side="left",  # generation continues the end of each row
        extra_special_tokens=[END_OF_CHUNK, VISUAL],
        **plain.special_tokens_map,
    )
    placeholder = grown.convert_tokens_to_ids(VISUAL)
    if grown(f"a{IMAGE}b {VISUAL}")["input_ids"].count(placeholder) != 2:
        raise ValueError(f"the tokenizer {tokenizer} changes texts so that {IMAGE} is not found in them")
    return grown


def _with_synonym(backend: Any) -> Any:
    """A tokenizer that reads `<image>` as `<visual>` before it looks for special tokens."""
    content = json.loads(backend.to_str())
    steps = [{"type": "Replace", "pattern": {"String": IMAGE}, "content": VISUAL}]
    if content["normalizer"] is not None:
        steps.append(content["normalizer"])
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return type(backend).from_str(json.dumps(content))
