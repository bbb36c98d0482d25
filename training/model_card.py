"""The model card of a saved CosMo: what it is from its config, and measured results only."""

from typing import Any


def make_model_card(config: Any, results: dict[str, Any], name: str) -> str:
    """README.md of a quickstart's model folder.

    Args:
        config: the model's `CosmoConfig`.
        results: what results.json holds.
        name: the run's name.
    """
    caption, retrieval, blind, chance = (results[key] for key in ("caption", "retrieval", "blind", "chance"))
    order = results["frame_order"]
    rows = [
        ("captions with the right colour and shape", "caption", "object_accuracy"),
        ("captions with the right action", "caption", "action_accuracy"),
        ("CIDEr", "caption", "cider"),
        ("text-to-video R@1", "retrieval", "text_to_video_r1"),
        ("video-to-text R@1", "retrieval", "video_to_text_r1"),
    ]
    table = [
        f"| {title} | {results[kind][key]:.3f} | {blind[kind][key]:.3f} | {chance[kind][key]:.3f} |"
        for title, kind, key in rows
    ]
    without = "not measured" if order["without"] is None else f"{order['without']:.3f}"
    text, vision = config.get_text_config(), config.vision_config
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "license: apache-2.0",
        "language: en",
        "tags: [cosmo, flamingo, video-captioning, video-text-retrieval]",
        "---",
        "",
        f"# CosMo, {name}",
        "",
        "A CosMo model ([arXiv 2401.00849](https://arxiv.org/abs/2401.00849)) that was trained on the toy world: "
        "rendered videos of eight actions of coloured shapes. It knows nothing else, and shows how the parts work.",
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        'model = AutoModelForImageTextToText.from_pretrained("FOLDER", trust_remote_code=True)',
        'processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)',
        'inputs = processor(text=["<visual>"], videos=[frames], return_tensors="pt")  # uint8 (F, 3, H, W), or a path',
        "print(processor.batch_decode(model.generate(**inputs, max_new_tokens=24), skip_special_tokens=True))",
        "```",
        "",
        "Loading runs the Python files of this folder: read them first if you do not trust where they come from.",
        "",
        "## Architecture",
        "",
        f"- language model: {text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}, frozen",
        f"- vision tower: {vision.model_type}, {vision.num_hidden_layers} layers, width {vision.hidden_size}, "
        f"{vision.image_size} px, frozen",
        f"- gated cross-attention before layers {config.block_positions}",
        f"- resampler: {config.resampler_depth} layers, {config.num_visual_tokens} visual tokens, "
        + (f"frame positions for up to {config.max_frames} frames" if config.max_frames else "no frame positions"),
        f"- trainable share of the parameters: {100 * results['trainable_share']:.1f} %",
        "",
        "## Results",
        "",
        f"Measured on {caption['num']} clips whose combinations of shape, colour and action were never shown in any "
        f"training, and on searches among {retrieval['num']} clips with different captions. Blind: the same model "
        "with the videos shuffled among each other.",
        "",
        "| score | CosMo | blind | chance |",
        "| --- | --- | --- | --- |",
        *table,
        "",
        f"Right action among pairs that only the order of frames tells apart: {order['with_frame_positions']:.3f}; "
        f"the same model without frame position embeddings: {without}.",
        "",
        f"Made by `{results['command']}`, seed {results['seed']}, code {results['revision'] or 'unknown'}.",
        "",
        "## Limits",
        "",
        "Sees shapes, colours, backgrounds and actions of the toy world. Pictures of anything else get a toy caption.",
        "",
    ]
    return "\n".join(lines)
