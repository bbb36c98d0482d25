"""Model cards: the quickstart's, with its results, and one for a folder that is published without a card."""

import json
from pathlib import Path
from typing import Any


def quickstart_card(config: Any, results: dict[str, Any], name: str) -> str:
    """Return README.md for a quickstart's model folder.

    Args:
        config: the model's `CosmoConfig`.
        results: content of results.json.
        name: name of the run.
    """
    from modeling_cosmo.model_card_cosmo import make_model_card

    return make_model_card(
        config,
        f"CosMo, {name}",
        about="A CosMo model ([arXiv 2401.00849](https://arxiv.org/abs/2401.00849)), trained on the toy world: "
        "rendered videos of coloured shapes in eight actions. It knows nothing else; it shows how the parts work. "
        "Both towers stayed frozen.",
        results=_quickstart_results(results),
        limits="Sees shapes, colours, backgrounds and actions of the toy world. Pictures of anything else get a toy "
        "caption. A search with half a caption ranks poorly, since training compares whole captions.",
        license="apache-2.0",
        language="en",
    )


def write_missing_card(folder: Path, repo_id: str) -> bool:
    """Write a card from the config into a model folder without README.md; invent neither licence nor results.

    Args:
        folder: a saved CosMo model; nothing is written into any other folder.
        repo_id: repository from which the card's examples load the model.

    Returns:
        Whether a card was written.

    Raises:
        ValueError: if `repo_id` is not a valid name.
    """
    config_file = folder / "config.json"
    if (folder / "README.md").exists() or not _is_cosmo(config_file):
        return False
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in any __all__

    from modeling_cosmo import CosmoConfig
    from modeling_cosmo.model_card_cosmo import make_model_card

    validate_repo_id(repo_id)
    card = make_model_card(
        CosmoConfig.from_pretrained(folder),
        repo_id.rsplit("/", 1)[-1],
        repository=repo_id,
        has_processor=(folder / "processor_config.json").is_file(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return True


def _is_cosmo(config_file: Path) -> bool:
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # publishing says what is wrong
    return isinstance(config, dict) and config.get("model_type") == "cosmo" and "text_config" in config


def _quickstart_results(results: dict[str, Any]) -> str:
    caption, retrieval, blind, chance = (results[key] for key in ("caption", "retrieval", "blind", "chance"))
    order = results["frame_order"]
    without = "not measured" if order["without"] is None else f"{order['without']:.3f}"
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
    return "\n".join(
        [
            f"Measured on {caption['num']} clips with combinations of shape, colour and action never seen in training "
            f"and on searches among {retrieval['num']} clips with different captions. Blind: the same model "
            "with the videos shuffled.",
            "",
            "| score | CosMo | blind | chance |",
            "| --- | --- | --- | --- |",
            *table,
            "",
            "Right action among pairs that only the order of frames tells apart: "
            f"{order['with_frame_positions']:.3f}; the same model without frame position embeddings: {without}.",
            "",
            f"Share of the parameters that trained: {100 * results['trainable_share']:.1f} %. "
            f"Made by `{results['command']}`, seed {results['seed']}, code {results['revision'] or 'unknown'}.",
        ]
    )
