"""Model card (README.md) of a saved CosMo: what its config says and what its author measured, nothing else."""

from typing import Any

import torch
from huggingface_hub import ModelCardData

from .configuration_cosmo import CosmoConfig
from .freezing_cosmo import count_trainable
from .modeling_cosmo import CosmoForConditionalGeneration
from .tokens_cosmo import VISUAL


RELEASED_BEHAVIOURS = {
    "text_pool_attends_padding": "padding counts in a text's embedding",
    "vision_mean_includes_padding": "padding media count in the vision embedding",
    "uniform_before_first_medium": "text before the first medium attends to all media alike",
    "scale_by_uncompressed_head": "attention of the gated blocks is scaled by the width before compression",
}
"""Switches that are on only in converted checkpoints, and their meaning for readers of the card."""
CAPTION = """from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

repository = {repository!r}  # or a folder that holds its files
model = AutoModelForImageTextToText.from_pretrained(repository, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)

picture = Image.open("picture.png")
inputs = processor(text={prompt!r}, images=picture, return_tensors="pt")  # a clip: videos="clip.mp4"
ids = model.generate(**inputs, max_new_tokens=24)
print(processor.batch_decode(ids, skip_special_tokens=True)[0])
"""
COMPARE = """text = processor.tokenizer(processor.interleave(["what the picture shows"]), return_tensors="pt")
text = model.get_text_features(text["input_ids"], text["attention_mask"]).pooler_output
image = model.get_image_features(inputs["pixel_values"]).pooler_output
print((text @ image.T).item())  # cosine similarity
"""


def make_model_card(
    config: CosmoConfig,
    title: str = "CosMo",
    *,
    repository: str = "FOLDER",
    about: str = "",
    results: str = "",
    limits: str = "",
    has_processor: bool = True,
    **metadata: Any,
) -> str:
    """Write the text of README.md for a model of this config.

    Args:
        config: of the model; sizes and counts of parameters come from it.
        title: the card's heading.
        repository: where the examples load the model from.
        about: what the model was made from, and what for.
        results: Markdown with what was measured, on what, and by which command; if empty, the card says that nothing
            was measured.
        limits: what the model cannot do.
        has_processor: whether the folder holds a processor; without one the card has no example.
        metadata: further fields of the card's header, such as `license` and `base_model`; only what is known.
    """
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["cosmo", "flamingo", "custom_code"],
        **metadata,
    )
    sections = {
        "": about or "A CosMo model ([arXiv 2401.00849](https://arxiv.org/abs/2401.00849)) for pictures and videos.",
        "Use": _use(config, repository) if has_processor else "The folder holds the model alone, without a processor.",
        "Architecture": _architecture(config),
        "Results": results or "Nothing was measured.",
        "Limits": limits,
    }
    parts = [f"---\n{header.to_yaml()}\n---", f"# {title}"]
    for heading, text in sections.items():
        parts += ([f"## {heading}"] if heading else []) + [text.strip()] if text else []
    return "\n\n".join(parts) + "\n"


def _use(config: CosmoConfig, repository: str) -> str:
    examples = [CAPTION.format(repository=repository, prompt=VISUAL)] + [COMPARE] * config.contrastive
    return "\n\n".join(
        [f"```python\n{code}```" for code in examples]
        + ["Loading runs the repository's Python files: read them first if you do not trust where they come from."]
    )


def _architecture(config: CosmoConfig) -> str:
    text, vision = config.get_text_config(), config.vision_config
    frames = f"frame positions for up to {config.max_frames} frames" if config.max_frames else "no frame positions"
    scope = "the latest medium" if config.only_attend_immediate_media else "all media so far"
    lines = [
        f"vision tower: {vision.model_type}, {vision.num_hidden_layers} layers, width {vision.hidden_size}, "
        f"{vision.image_size} px",
        f"language model: {text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}, "
        f"{text.vocab_size} tokens",
        f"resampler: {config.resampler_depth} layers, {config.num_visual_tokens} visual tokens a medium, {frames}",
        f"gated cross-attention before layers {config.block_positions}, to {scope}",
        f"shared space of texts and media: {config.shared_dim} dimensions; texts are embedded after "
        f"{config.text_embedding_depth} layers"
        if config.contrastive
        else "no contrastive head: texts and media cannot be compared",
    ]
    lines += [f"as released: {meaning}" for name, meaning in RELEASED_BEHAVIOURS.items() if getattr(config, name)]
    table = ["| part | parameters |", "| --- | --- |", *(f"| {part} | {count:,} |" for part, count in _sizes(config))]
    return "\n".join(f"- {line}" for line in lines) + "\n\n" + "\n".join(table)


def _sizes(config: CosmoConfig) -> list[tuple[str, int]]:
    """Parameters of each part and of all, counted on a model without storage; a tied head counts once."""
    with torch.device("meta"):
        parts = count_trainable(CosmoForConditionalGeneration(config))
    counts = [(part.replace("_", " "), count) for part, (_, count) in parts.items()]
    return [*counts, ("all", sum(count for _, count in counts))]
