"""Train and save the two toy towers (`cosmo toy towers`): a CLIP and an OPT, in fp16, with a card."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from transformers import CLIPImageProcessorPil, PreTrainedModel, PreTrainedTokenizerFast

from dataset_builder.atomic import replacing_folder
from dataset_builder.toy.clip_tower import PIXEL_MEAN, PIXEL_STD, SIZE_PX, train_clip, zero_shot_scores
from dataset_builder.toy.text_tower import text_scores, train_opt
from dataset_builder.toy.texts import train_tokenizer


SHIPPED = Path(__file__).parent / "towers"
"""The towers that come with the package: `clip/` and `opt/`."""


@dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """How long the towers are trained; the shipped ones were made with the defaults."""

    seed: int = 0
    clip_steps: int = 3000
    clip_batch_size: int = 256
    clip_scenes: int = 25_000
    opt_steps: int = 600
    opt_batch_size: int = 64
    eval_scenes: int = 1000

    def __post_init__(self) -> None:
        for name in ("clip_steps", "opt_steps"):
            if getattr(self, name) < 4:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 4: the schedule rises and falls")


def train_towers(output: Path, settings: TowerSettings | None = None) -> dict[str, dict[str, float]]:
    """Train both towers into `output/clip` and `output/opt`; a tower that is already complete there is kept.

    Args:
        output: folder to write.
        settings: seed and lengths; None: `TowerSettings()`.

    Returns:
        The scores of each tower, as in its `scores.json`: `clip` zero-shot on held-out combinations, `opt` in nats per
        caption; `seconds` is the training time.

    Raises:
        ValueError: if the folder holds towers with other settings.
    """
    settings = settings or TowerSettings()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = train_tokenizer(settings.seed)

    def make_clip() -> tuple[PreTrainedModel, dict[str, float]]:
        started = time.monotonic()
        clip = train_clip(
            tokenizer,
            seed=settings.seed,
            steps=settings.clip_steps,
            batch_size=settings.clip_batch_size,
            num_scenes=settings.clip_scenes,
            device=device,
        )
        seconds = time.monotonic() - started
        _round_to_half(clip)
        scores = zero_shot_scores(clip, tokenizer, seed=settings.seed, num_scenes=settings.eval_scenes, device=device)
        return clip, {**scores, "seconds": seconds}

    def make_opt() -> tuple[PreTrainedModel, dict[str, float]]:
        started = time.monotonic()
        opt = train_opt(
            tokenizer,
            seed=settings.seed,
            steps=settings.opt_steps,
            batch_size=settings.opt_batch_size,
            device=device,
        )
        seconds = time.monotonic() - started
        _round_to_half(opt)
        return opt, {**text_scores(opt, tokenizer, device), "seconds": seconds}

    scores = {
        "clip": _make_tower(output / "clip", settings, tokenizer, make_clip),
        "opt": _make_tower(output / "opt", settings, tokenizer, make_opt),
    }
    _write_card(output, settings, scores, device)
    return scores


def _round_to_half(model: PreTrainedModel) -> None:
    """Round every weight to fp16 but keep it in float32, so that the scores are those of the shipped weights."""
    model.half().float()


def _make_tower(
    folder: Path,
    settings: TowerSettings,
    tokenizer: PreTrainedTokenizerFast,
    make: Callable[[], tuple[PreTrainedModel, dict[str, float]]],
) -> dict[str, float]:
    """Call `make` unless the folder is complete; the folder appears whole or not at all."""
    note = folder / "scores.json"
    wanted = asdict(settings)
    if note.exists():
        found = json.loads(note.read_text())
        if found["settings"] != wanted:
            raise ValueError(f"{folder} holds a tower with other settings: {found['settings']}; expected {wanted}")
        return found["scores"]
    model, scores = make()
    with replacing_folder(folder) as aside:
        model.half().save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        if folder.name == "clip":
            image_processor().save_pretrained(aside)
        (aside / "scores.json").write_text(json.dumps({"settings": wanted, "scores": scores}, indent=1))
    return scores


def image_processor() -> CLIPImageProcessorPil:
    """The processor that turns a picture into the toy CLIP's input: 64 px square, mean 0.5, deviation 0.25."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE_PX},
        crop_size={"height": SIZE_PX, "width": SIZE_PX},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


def _write_card(output: Path, settings: TowerSettings, scores: dict[str, dict[str, float]], device: str) -> None:
    clip, opt = scores["clip"], scores["opt"]
    megabytes = sum(path.stat().st_size for path in output.glob("*/*.safetensors")) / 1e6
    lines = [
        "# The toy towers",
        "",
        "A CLIP and an OPT that know the toy world and nothing else, so that the quickstart downloads nothing.",
        "They never saw one of the held-out combinations of shape, colour and action, as picture or as text.",
        "",
        f"- Command: `cosmo toy towers --output DIR --seed {settings.seed}` "
        f"({device}, torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}, "
        f"Python {sys.version.split()[0]})",
        f"- Weights: {megabytes:.2f} MB of fp16 safetensors in all; Apache-2.0",
        f"- `clip/`: CLIPModel, 64 px, patches of 8 px, width 128; {settings.clip_steps} steps of "
        f"{settings.clip_batch_size} frames, {clip['seconds'] / 3600:.2f} h. Loss: contrastive over all true captions "
        "plus a cross-entropy for shape, colour and background from the mean patch token.",
        f"- `opt/`: OPTForCausalLM, width 128, 6 layers, byte-level BPE; {settings.opt_steps} steps of "
        f"{settings.opt_batch_size} texts, {opt['seconds'] / 3600:.2f} h.",
        "",
        "| score, on held-out combinations | value |",
        "| --- | --- |",
        f"| frames whose shape and colour are both right, zero-shot among 56 | {clip['shape_and_colour']:.4f} |",
        f"| shape | {clip['shape']:.4f} |",
        f"| colour | {clip['colour']:.4f} |",
        f"| frames scored | {clip['num_frames']} |",
        f"| nats a caption: seen combinations | {opt['nats_per_seen_caption']:.3f} |",
        f"| nats a caption: held-out combinations | {opt['nats_per_held_out_caption']:.3f} |",
        "",
    ]
    (output / "README.md").write_text("\n".join(lines))
