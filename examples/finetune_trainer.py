"""Fine-tune a CosMo on pictures with transformers' `Trainer` and LoRA, from nothing to captions in two minutes.

The script renders pictures of the toy world, joins the two small towers that this project ships, and trains the parts
between them plus LoRA on the language model. Some pairs of colour and shape are held out, to score the model on them.

    python examples/finetune_trainer.py --output runs/example
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import Trainer, TrainingArguments, set_seed

from dataset_builder.toy.render import draw_look, draw_pose, render_step
from dataset_builder.toy.train_towers import SHIPPED
from dataset_builder.toy.world import BACKGROUNDS, COLOURS, SHAPES, Scene
from modeling_cosmo import CosmoDataCollator, CosmoForConditionalGeneration, CosmoProcessor


PAIRS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
UNSEEN = PAIRS[::8]  # every colour and every shape is among the others
SEEN = [pair for pair in PAIRS if pair not in UNSEEN]
NUM_TRAIN, NUM_TEST = 2000, 70


def draw_pictures(pairs: list[tuple[str, str]], num: int, seed: int) -> list[dict[str, Any]]:
    """Draw samples in the collator's format: a text with a placeholder, and the picture for it."""
    rng, samples = np.random.default_rng(seed), []
    for index in range(num):
        colour, shape = pairs[index % len(pairs)]
        scene = Scene(shape=shape, colour=colour, action="grow", background=str(rng.choice(BACKGROUNDS)))
        look = draw_look(rng)
        frame = render_step(scene, look, draw_pose(scene.action, look, 5, rng), size_px=64)[2]
        article = "an" if colour[0] in "aeiou" else "a"
        caption = f"{article} {scene.object_phrase} in front of the {scene.background}"
        samples.append({"text": f"<visual>{caption}<|endofchunk|>", "images": [Image.fromarray(frame)],
                        "object": scene.object_phrase})  # fmt: skip
    return samples


def join_towers() -> tuple[CosmoForConditionalGeneration, CosmoProcessor]:
    """Join the shipped towers, frozen, with new parts between them and embeddings for the new tokens."""
    processor = CosmoProcessor.from_towers(str(SHIPPED / "clip"), str(SHIPPED / "opt"))
    model = CosmoForConditionalGeneration.from_towers(
        str(SHIPPED / "clip"), str(SHIPPED / "opt"), processor, freeze_towers=True, train_new_tokens=True,
        unimodal_depth=3, num_visual_tokens=16, shared_dim=128, contrastive_weight=0.05,
        resampler_depth=1, resampler_heads=4, resampler_head_dim=32,
        cross_attention_heads=4, cross_attention_head_dim=32,
    )  # fmt: skip
    return model, processor


def add_lora(model: CosmoForConditionalGeneration) -> Any:
    """Put LoRA on the language model's attention; the new parts of CosMo train in full."""
    new_parts = ["resampler", "cross_attention", "text_pool", "text_projection", "vision_projection", "new_tokens"]
    targets = r".*language_model.*self_attn\.(q_proj|v_proj)"
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, modules_to_save=new_parts)
    return get_peft_model(model, config)


def build_optimizer(model: Any) -> torch.optim.Optimizer:
    """AdamW with a separate rate for the gates: they start closed, and until they open pictures affect no word."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    gates = [parameter for name, parameter in named if "_gate" in name]
    others = [parameter for name, parameter in named if "_gate" not in name]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": gates, "lr": 2e-2, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3)


def caption(model: Any, processor: CosmoProcessor, samples: list[dict[str, Any]]) -> list[str]:
    """Caption each picture."""
    inputs = processor(text=["<visual>"] * len(samples), images=[sample["images"] for sample in samples])
    ids = model.eval().generate(**inputs, max_new_tokens=20)
    return processor.batch_decode(ids, skip_special_tokens=True)


def share_right(captions: list[str], samples: list[dict[str, Any]]) -> float:
    """Share of captions that name the picture's colour and shape."""
    return float(np.mean([sample["object"] in text for text, sample in zip(captions, samples, strict=True)]))


def main(output: Path, max_steps: int) -> dict[str, float]:
    """Train, then print and return the scores on pairs of colour and shape that training never showed."""
    set_seed(0)
    train, test = draw_pictures(SEEN, NUM_TRAIN, seed=0), draw_pictures(UNSEEN, NUM_TEST, seed=1)
    model, processor = join_towers()
    print(f"before: {caption(model, processor, test[:1])[0]!r}, truth: {test[0]['text']!r}")

    model = add_lora(model)
    print(model.trainable_parts())
    arguments = TrainingArguments(
        str(output), max_steps=max_steps, per_device_train_batch_size=64,
        lr_scheduler_type="cosine", warmup_steps=20, logging_steps=25, remove_unused_columns=False,
        report_to="none", save_strategy="no", use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, data_collator=CosmoDataCollator(processor), train_dataset=train, eval_dataset=test,
        optimizers=(build_optimizer(model), None),
    )  # fmt: skip
    loss_before = trainer.evaluate()["eval_loss"]
    trainer.train()
    loss_after = trainer.evaluate()["eval_loss"]

    captions = caption(model, processor, test)
    others = [{**sample, "images": test[index - 1]["images"]} for index, sample in enumerate(test)]
    scores = {
        "loss_before": loss_before,
        "loss_after": loss_after,
        "right": share_right(captions, test),
        "right_with_another_picture": share_right(caption(model, processor, others), test),
    }
    print(f"after: {captions[0]!r}, truth: {test[0]['text']!r}")
    print(", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    model.save_pretrained(output / "adapter")  # a few megabytes, for PeftModel.from_pretrained
    merged = model.merge_and_unload()
    merged.save_pretrained(output / "model")  # a plain CosMo
    processor.save_pretrained(output / "model")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/example"))
    parser.add_argument("--max-steps", type=int, default=200)
    words = parser.parse_args()
    main(words.output, words.max_steps)
