"""The model against its floor: the plain language model of the same shape and the vision tower alone.

OPT-125M and CLIP ViT-B/32 shapes, random weights (speed does not depend on them), float32, two threads. Every figure
is the median over rounds of a ratio within one round, so that a busy machine slows both sides of it.

    python -m benchmarks.model [--rounds N] [--only decode,calls,prefill,training,embedding] [--write]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, OPTConfig, OPTForCausalLM

from benchmarks.flops import needed_flops, plain_flops
from benchmarks.table import Row, table, write_section
from modeling_cosmo import CosmoForConditionalGeneration


NUM_THREADS = 2
VARIANTS = {"6/1/1": (1, 1), "6/2/2": (2, 2)}
"""Depth / interval / compression of the blocks, and the last two as numbers."""
VISUAL, NUM_PICTURES, PROMPT_LENGTH, NEW_TOKENS = 50_265, 5, 96, 32
TRAINING = {"batch": 4, "pictures": 3, "length": 128}


def plain_language_model() -> Any:
    """A model of OPT-125M's shape, with room for the special tokens."""
    torch.manual_seed(0)
    return OPTForCausalLM(OPTConfig(vocab_size=50_272)).eval()


def cosmo(variant: str) -> Any:
    """CosMo with both towers and open gates."""
    interval, ratio = VARIANTS[variant]
    model = CosmoForConditionalGeneration.from_towers(
        CLIPVisionModel(CLIPVisionConfig(patch_size=32)),
        plain_language_model(),
        visual_token_id=VISUAL,
        unimodal_depth=6,
        cross_attention_interval=interval,
        compress_ratio=ratio,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.1)
    return model.eval()


def prompt(batch: int, length: int, pictures: int) -> dict[str, torch.Tensor]:
    """Texts with their pictures spread evenly through them."""
    torch.manual_seed(1)
    ids = torch.randint(10, 50_000, (batch, length))
    ids[:, :: -(-length // pictures)] = VISUAL
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(batch, pictures, 1, 3, 224, 224),
    }


def text_of(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that the plain language model reads."""
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleave(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times of every call in every round, after one round of warm-up; the order rotates from round to round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for index in range(rounds + 1):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            elapsed_s = seconds(calls[name])
            if index:
                times[name].append(elapsed_s)
    return times


def ratio_row(name: str, goal: str, times: dict[str, list[float]], ours: str, floor: Iterable[str]) -> Row:
    """Median over rounds of the time of `ours` divided by the summed times of `floor`."""
    floor = list(floor)
    ratios = [own / sum(parts) for own, *parts in zip(times[ours], *(times[part] for part in floor), strict=True)]
    parts = " + ".join(f"{part} {1e3 * statistics.median(times[part]):.1f}" for part in floor)
    detail = f"{1e3 * statistics.median(times[ours]):.1f} ms to {parts} ms; {min(ratios):.2f} to {max(ratios):.2f}"
    return Row(name=name, value=statistics.median(ratios), goal=goal, detail=detail)


@torch.no_grad()
def decode(rounds: int) -> list[Row]:
    """Decode one more token after a prompt with pictures."""
    inputs = prompt(1, PROMPT_LENGTH, NUM_PICTURES)
    token, num_steps = torch.full((1, 1), 11), 16

    def steps_of(model: Any, given: dict[str, torch.Tensor], options: dict[str, Any]) -> Callable[[], object]:
        cache = model(**given, use_cache=True).past_key_values
        masks = [torch.ones(1, PROMPT_LENGTH + 1 + step, dtype=torch.long) for step in range(num_steps)]

        def steps() -> None:
            for mask in masks:
                model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
            cache.crop(-num_steps)

        return steps

    calls = {"plain": steps_of(plain_language_model(), text_of(inputs), {})}
    for variant in VARIANTS:
        calls[variant] = steps_of(cosmo(variant), inputs, {"compute_contrastive": False})
    times = {name: [t / num_steps for t in of_name] for name, of_name in interleave(calls, rounds).items()}
    goals = {"6/1/1": "<= 1.45", "6/2/2": "<= 1.20"}
    return [ratio_row(f"decode step, {v}", goals[v], times, v, ["plain"]) for v in VARIANTS]


@torch.no_grad()
def whole_calls(rounds: int) -> list[Row]:
    """Run `generate` from pictures and prompt to the last new token, greedy and with three beams."""
    inputs = prompt(1, PROMPT_LENGTH, NUM_PICTURES)
    plain, models = plain_language_model(), {variant: cosmo(variant) for variant in VARIANTS}
    vision = models["6/1/1"].model.vision_tower
    rows = []
    for title, beams, goals in (("greedy", 1, ("<= 1.45", "<= 1.20")), ("beam 3", 3, ("<= 1.40", "<= 1.20"))):
        options: dict[str, Any] = {
            "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": beams,
        }  # fmt: skip
        calls: dict[str, Callable[[], object]] = {
            "plain": partial(plain.generate, **text_of(inputs), **options),
            "vision tower": partial(vision, pixel_values=inputs["pixel_values"].flatten(0, 2)),
        }
        for variant, model in models.items():
            calls[variant] = partial(model.generate, **inputs, **options)
        times = interleave(calls, rounds)
        rows += [
            ratio_row(f"{title}, {NEW_TOKENS} tokens, {variant}", goal, times, variant, ["plain", "vision tower"])
            for variant, goal in zip(VARIANTS, goals, strict=True)
        ]
    return rows


@torch.no_grad()
def prefill(rounds: int) -> list[Row]:
    """Run the pass that reads pictures and prompt."""
    inputs = prompt(1, PROMPT_LENGTH, NUM_PICTURES)
    plain, models = plain_language_model(), {variant: cosmo(variant) for variant in VARIANTS}
    core = models["6/1/1"].model
    features = core.encode_frames(inputs["pixel_values"])
    calls: dict[str, Callable[[], object]] = {
        "plain": partial(plain, **text_of(inputs), use_cache=True, logits_to_keep=1),
        "vision tower": partial(core.vision_tower, pixel_values=inputs["pixel_values"].flatten(0, 2)),
        "resampler": partial(core.resample, features),
    }
    for variant, model in models.items():
        calls[variant] = partial(model, **inputs, use_cache=True, logits_to_keep=1, compute_contrastive=False)
    times = interleave(calls, rounds)
    goals = {"6/1/1": "<= 1.20", "6/2/2": "<= 1.10"}
    floor = ["plain", "vision tower", "resampler"]
    return [ratio_row(f"prefill, {variant}", goals[variant], times, variant, floor) for variant in VARIANTS]


@torch.no_grad()
def text_embedding(rounds: int) -> list[Row]:
    """Compare text features with a whole pass of the language model over the same texts."""
    texts = text_of(prompt(8, 64, 1))
    plain, model = plain_language_model(), cosmo("6/1/1")
    calls: dict[str, Callable[[], object]] = {
        "plain": partial(plain, **texts, use_cache=False),
        "text features": partial(model.get_text_features, **texts),
    }
    times = interleave(calls, rounds)
    return [ratio_row("text embedding, 8 texts of 64 tokens", "<= 0.55", times, "text features", ["plain"])]


def training_inputs() -> dict[str, torch.Tensor]:
    """A batch with labels."""
    inputs = prompt(TRAINING["batch"], TRAINING["length"], TRAINING["pictures"])
    return inputs | {"labels": inputs["input_ids"].masked_fill(inputs["input_ids"] == VISUAL, -100)}


def training_step(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], object]:
    """Forward and backward; no optimizer."""

    def step() -> None:
        model(**inputs, use_cache=False).loss.backward()
        for parameter in model.parameters():
            parameter.grad = None

    return step


def training(rounds: int) -> list[Row]:
    """Measure a step with frozen towers: how fast it does the needed work, and its peak memory."""
    inputs = training_inputs()
    plain, models = plain_language_model().train(), {variant: cosmo(variant) for variant in VARIANTS}
    text = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
    calls = {"plain": training_step(plain, text)}
    shape = (TRAINING["batch"], TRAINING["length"])
    flops = {"plain": plain_flops(plain.config, *shape)}
    for variant, model in models.items():
        model.freeze_towers()
        calls[variant] = training_step(model.train(), inputs)
        flops[variant] = needed_flops(model.config, *shape, TRAINING["pictures"])
    times = interleave(calls, rounds)
    rows = []
    for variant in VARIANTS:
        rates = [
            (flops[variant] / own) / (flops["plain"] / floor)
            for own, floor in zip(times[variant], times["plain"], strict=True)
        ]
        speeds = ", ".join(
            f"{name} {flops[name] / 1e9:.0f} GFLOP in {statistics.median(times[name]):.2f} s"
            for name in (variant, "plain")
        )
        rows.append(
            Row(
                name=f"training step, needed FLOP/s against the plain model's, {variant}",
                value=statistics.median(rates),
                goal=">= 0.90",
                detail=f"{speeds}; {min(rates):.2f} to {max(rates):.2f}",
            )
        )
    return rows + [memory_row(variant) for variant in VARIANTS]


def memory_row(variant: str) -> Row:
    """Peak memory of a step with frozen towers against a step that keeps all activations, in fresh processes."""
    peaks = {}
    for kept in ("needed", "all"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.model", "--peak-of-step", variant, kept],
            check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        )  # fmt: skip
        peaks[kept] = float(done.stdout)
    return Row(
        name=f"training step, peak memory against all activations kept, {variant}",
        value=peaks["needed"] / peaks["all"],
        goal="<= 0.65",
        detail=f"{peaks['needed']:.0f} MiB to {peaks['all']:.0f} MiB above the level before the step",
    )


def peak_of_step(variant: str, kept: str) -> float:
    """Peak resident memory of one step in MiB, above the level before it (Linux)."""
    model, inputs = cosmo(variant), training_inputs()
    model.freeze_towers()
    model.train()
    if kept == "all":  # as for a backward pass through everything; gradients of the towers are dropped at once
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.requires_grad_().register_post_accumulate_grad_hook(drop_gradient)
    small = {name: value[:1] for name, value in inputs.items()}
    training_step(model, small)()  # so that one-time setup is done before
    before = resident_kib("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 (no regular file)
        file.write("5")  # forget the peak so far
    training_step(model, inputs)()
    return (resident_kib("VmHWM") - before) / 1024


def drop_gradient(parameter: torch.Tensor) -> None:
    """Free a gradient as soon as it is computed."""
    parameter.grad = None


def resident_kib(field: str) -> int:
    """Value of a line of /proc/self/status, in KiB."""
    with open("/proc/self/status") as file:  # noqa: PTH123 (no regular file)
        return next(int(line.split()[1]) for line in file if line.startswith(field))


SECTIONS: dict[str, Callable[[int], list[Row]]] = {
    "decode": decode,
    "calls": whole_calls,
    "prefill": prefill,
    "training": training,
    "embedding": text_embedding,
}


def main() -> None:
    """Measure, print, and if asked write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--peak-of-step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(NUM_THREADS)
    if options.peak_of_step:
        print(peak_of_step(*options.peak_of_step))
        return
    rows = []
    for name in options.only.split(","):
        rows += (of_section := SECTIONS[name](options.rounds))
        print(table(of_section), flush=True)
    if options.write:
        write_section("Model", "python -m benchmarks.model --write", __doc__.split("\n\n")[1], rows)


if __name__ == "__main__":
    main()
