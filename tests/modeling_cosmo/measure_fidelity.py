"""Prints the effects that stand in docs/fidelity.md: each switch against the released behaviour.

Run `python -m tests.modeling_cosmo.measure_fidelity PARITY_FOLDER` from the project's folder.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from modeling_cosmo import CosmoForConditionalGeneration
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint
from tests.modeling_cosmo.released import Sizes, language_model, random_batch, released_state


SWITCHES = {
    "text_embedding_depth": lambda config: config.unimodal_depth,
    "text_pool_attends_padding": lambda config: False,
    "vision_mean_includes_padding": lambda config: False,
    "uniform_before_first_medium": lambda config: False,
    "patch_tokens": lambda config: "after_ln_post",
    "scale_by_uncompressed_head": lambda config: False,
}


def fixture(folder):
    """A fixture of the parity folder; the surplus picture of its last row counts as padding."""
    values = load_file(folder / "io.safetensors")
    batch = {name: values[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    batch["media_mask"] = torch.ones(batch["pixel_values"].shape[:3], dtype=torch.bool)
    batch["media_mask"][2, 2] = False
    return load_file(folder / "weights.safetensors"), json.loads((folder / "config.json").read_text()), batch


def compressed():
    """A random model with compress ratio 2, which no fixture has."""
    sizes = Sizes(ratio=2)
    return released_state(sizes, language_model(sizes, 3), 3), sizes.architecture(), random_batch(sizes, 1)


def main(parity):
    cases = {name: fixture(Path(parity) / name) for name in ("opt", "opt_attend_all")} | {"ratio 2": compressed()}
    for name, (state, architecture, batch) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            save_file({key: value.contiguous() for key, value in state.items()}, f"{folder}/weights.safetensors")
            convert_checkpoint(f"{folder}/weights.safetensors", architecture, f"{folder}/model")
            released = CosmoForConditionalGeneration.from_pretrained(f"{folder}/model")
            real = batch["attention_mask"].bool()
            with torch.no_grad():
                expect = released(**batch)
                for switch, value in SWITCHES.items():
                    options = {switch: value(released.config)}
                    out = CosmoForConditionalGeneration.from_pretrained(f"{folder}/model", **options)(**batch)
                    logits = (out.logits - expect.logits)[real].abs().max().item()
                    text = (out.text_embeds * expect.text_embeds).sum(-1).min().item()
                    vision = (out.vision_embeds * expect.vision_embeds).sum(-1).min().item()
                    print(f"{name:15} {switch:30} logits {logits:.3f} text {text:.3f} vision {vision:.3f}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
