"""Whether the device computes what the CPU does: outputs of the released code, precision, generation, gradients."""

import copy
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.gpu_kit.cells import Cell, Measured, Setup
from benchmarks.gpu_kit.generation import fully_compiled, generate_options
from benchmarks.gpu_kit.shapes import PADDING, SHAPES, cosmo_model, random_inputs, training_inputs
from modeling_cosmo import CosmoForConditionalGeneration
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint


ROOT = Path(__file__).parents[2]
OWN_FIXTURE = ROOT / "tests" / "modeling_cosmo" / "fixtures"
TINY = SHAPES["tiny"]
VARIANT = next(iter(TINY.variants))
UNIT_ROUND_OFF = 2.0**-8
"""Of bfloat16, which has eight significant bits and rounds to nearest."""
ROUNDINGS_OF_A_LAYER = 16
"""Attention: norm, query, key, value, weights, sum, projection, residual; feed-forward: norm, two products,
activation, residual; and the rounded weights on the way, taken as three more."""
TESTS_GRACE_S = 15.0
"""They may go on for so long after the section's time."""
PYTEST = ["-c", os.devnull, "--rootdir", ".", "-o", "pythonpath=.", "--import-mode", "importlib"]
"""Without the project's settings, which want a newer pytest than a machine may have, and no warnings."""


def cells(setup: Setup) -> list[Cell]:
    """From the stored outputs of the released code to the tests that want a device."""
    found = [
        Cell(name=f"outputs of {name}, float32, largest gap", unit="", goal="<= 1e-4", measure=partial(measure, setup))
        for name, measure in fixtures().items()
    ]
    found.append(
        Cell(
            name="bfloat16 against float32, gap through its bound",
            goal="<= 1.0",
            measure=partial(half_precision, setup),
        )
    )
    found += [
        Cell(name=f"greedy ids, {name}, that differ", unit="ids", goal="<= 0", measure=partial(measure, setup))
        for name, measure in {
            "without cache": uncached_ids, "batched": batched_ids, "static cache": static_ids,
        }.items()
    ]  # fmt: skip
    found.append(
        Cell(
            name="gradients of a training step against the CPU, largest gap", unit="", goal="<= 1e-4",
            measure=partial(gradients, setup),
        )
    )  # fmt: skip
    found.append(
        Cell(name="tests marked gpu that fail", unit="tests", goal="<= 0", measure=partial(marked_tests, setup))
    )
    found.append(
        Cell(
            name="greedy ids, static cache, compiled, that differ", unit="ids", goal="<= 0",
            measure=partial(compiled_ids, setup),
        )
    )  # fmt: skip
    return found


def fixtures() -> dict[str, Callable[[Setup], Measured]]:
    """Stored outputs by name: those of the folder in COSMO_PARITY, or else the project's own.

    Raises:
        ValueError: if the variable names no folder, or one without fixtures.
    """
    named = os.environ.get("COSMO_PARITY")
    if not named:
        return {"the definition (own fixture)": own_outputs}
    folders = sorted(path.parent for path in Path(named).glob("*/io.safetensors"))
    if not folders:
        raise ValueError(f"COSMO_PARITY={named}: expected a folder of parity fixtures, with */io.safetensors")
    return {f"the released code ({folder.name})": partial(released_outputs, folder) for folder in folders}


def exact(setup: Setup) -> None:
    """Float32 products in float32: no TF32."""
    if setup.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def load_converted(setup: Setup, weights: Path, architecture: Path) -> Any:
    """A released checkpoint through the converter, on the device in float32."""
    exact(setup)
    with tempfile.TemporaryDirectory() as folder:
        convert_checkpoint(weights, architecture, folder)
        model: Any = CosmoForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        return model.to(setup.device)


@torch.no_grad()
def released_outputs(folder: Path, setup: Setup) -> Measured:
    """Logits, both losses and both embeddings against those that the released code gave."""
    model = load_converted(setup, folder / "weights.safetensors", folder / "config.json")
    stored = load_file(folder / "io.safetensors")
    inputs = {name: stored[name] for name in ("input_ids", "attention_mask", "pixel_values", "labels")}
    pairs = {"lm_loss": "lm_loss", "contrastive_loss": "contrastive_loss", "text_embeds": "text_latents",
             "vision_embeds": "vision_latents"}  # fmt: skip
    expect = {ours: stored[f"out.{theirs}"] for ours, theirs in pairs.items() if f"out.{theirs}" in stored}
    return gaps(model, inputs, setup, expect, stored["out.logits"])


@torch.no_grad()
def own_outputs(setup: Setup) -> Measured:
    """The same against the definition in float64, on the fixture that comes with the project."""
    model = load_converted(setup, OWN_FIXTURE / "tiny_released.safetensors", OWN_FIXTURE / "tiny_architecture.json")
    stored = load_file(OWN_FIXTURE / "tiny_outputs.safetensors")
    inputs = {name: stored[name] for name in ("input_ids", "attention_mask", "pixel_values", "media_mask")}
    expect = {name: stored[f"out.{name}"] for name in ("contrastive_loss", "text_embeds", "vision_embeds")}
    return gaps(model, inputs | {"labels": inputs["input_ids"]}, setup, expect, stored["out.logits"])


def gaps(
    model: Any, inputs: dict[str, Any], setup: Setup, expect: dict[str, torch.Tensor], logits: torch.Tensor
) -> Measured:
    """Largest absolute difference of each output; logits where the text is real."""
    out = model(**{name: value.to(setup.device) for name, value in inputs.items()})
    real = inputs["attention_mask"].bool()
    found = {name: largest(getattr(out, name).reshape(value.shape), value) for name, value in expect.items()}
    found["logits"] = largest(out.logits.cpu()[real], logits[real])
    worst = max(found, key=lambda name: found[name])
    return Measured(value=found[worst], detail=f"{worst}; {len(found)} outputs", figures=found)


def largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference; infinite if anything is not a number."""
    gap = float((found.detach().cpu().double() - expected.double()).abs().max())
    return float("inf") if math.isnan(gap) else gap


@torch.no_grad()
def half_precision(setup: Setup) -> Measured:
    """Relative gap of the logits in bfloat16, through what rounding at random can make of it.

    Each of the N roundings on the way to the logits adds a relative error that is spread evenly up to u, so
    u / sqrt(3) in the mean square, in no common direction: together u * sqrt(N / 3). N counts the layers of vision
    tower, resampler and language model, the gated blocks, and the head.
    """
    exact(setup)
    model = cosmo_model(TINY, VARIANT, setup.device, torch.float32)
    inputs = random_inputs(TINY, setup.device, rows=3, length=17, media=2)
    expect = model(**inputs).logits.double()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    found = model.bfloat16()(**inputs).logits.double()
    gap = float((found - expect).norm() / expect.norm())
    bound = rounding_bound(model.config)
    return Measured(value=gap / bound, detail=f"{gap:.4f} of the logits' norm; bound {bound:.4f}")


def rounding_bound(config: Any) -> float:
    """Relative gap of the logits that rounding to bfloat16 explains; see `half_precision`."""
    layers = config.vision_config.num_hidden_layers + config.resampler_depth + config.text_config.num_hidden_layers
    roundings = ROUNDINGS_OF_A_LAYER * (layers + len(config.block_positions)) + 3
    return UNIT_ROUND_OFF * float(roundings / 3) ** 0.5


def greedy(setup: Setup, model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    """Ids that a model writes, the prompt left out."""
    varied = {"no_repeat_ngram_size": 1, "suppress_tokens": [PADDING, TINY.visual_token_id]}  # or one comes always
    ids = model.generate(**inputs, **generate_options(tiny(setup), compiled=False) | varied | options)
    return ids[:, inputs["input_ids"].shape[1] :]


def tiny(setup: Setup) -> Setup:
    """The same for the tiny shape, which comparisons by exact ids take whatever is measured elsewhere."""
    return replace(setup, shape=TINY)


def writer(setup: Setup) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    """A model in float32, prompts with padding and media, and what it writes with its usual cache."""
    exact(setup)
    model = cosmo_model(TINY, VARIANT, setup.device, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # far enough from fresh weights that what was read matters
            parameter.add_(0.2 * torch.randn_like(parameter))
    inputs = random_inputs(TINY, setup.device, rows=4, length=17, media=2, padded=True)
    return model, inputs, greedy(setup, model, inputs)


def differing(found: torch.Tensor, expected: torch.Tensor) -> Measured:
    """How many ids are not the same."""
    different = int((found != expected).sum()) if found.shape == expected.shape else expected.numel()
    return Measured(
        value=different, detail=f"of {expected.numel()}, {len(expected.unique())} of them different tokens"
    )


def uncached_ids(setup: Setup) -> Measured:
    """Every step reads the whole text and its media again."""
    model, inputs, expect = writer(setup)
    return differing(greedy(setup, model, inputs, use_cache=False), expect)


def batched_ids(setup: Setup) -> Measured:
    """Each prompt alone and without its padding, against all of them in one batch."""
    model, inputs, expect = writer(setup)
    rows = []
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        alone = {name: inputs[name][row : row + 1, mask] for name in ("input_ids", "attention_mask")}
        rows.append(greedy(setup, model, alone | {"pixel_values": inputs["pixel_values"][row : row + 1]}))
    return differing(torch.cat(rows), expect)


def static_ids(setup: Setup) -> Measured:
    """A cache of fixed size, not compiled."""
    model, inputs, expect = writer(setup)
    return differing(greedy(setup, model, inputs, cache_implementation="static", disable_compile=True), expect)


def compiled_ids(setup: Setup) -> Measured:
    """A cache of fixed size, the decoding step compiled."""
    model, inputs, expect = writer(setup)
    torch._dynamo.reset()
    with fully_compiled(setup):
        found = greedy(setup, model, inputs, **generate_options(tiny(setup), compiled=True))
    return differing(found, expect)


def gradients(setup: Setup) -> Measured:
    """Relative gap of each trained parameter's gradient to that of the CPU in float64."""
    exact(setup)
    model = cosmo_model(TINY, VARIANT, torch.device("cpu"), torch.float32)
    model.freeze_towers()
    reference = copy.deepcopy(model).double()
    inputs = training_inputs(TINY, "clips", 3, torch.device("cpu"))
    found = step_gradients(model.to(setup.device).train(), inputs, setup.device)
    expected = step_gradients(
        reference.train(), inputs | {"pixel_values": inputs["pixel_values"].double()}, torch.device("cpu")
    )
    relative = {
        name: float((found[name].double() - value).norm() / value.norm().clamp(min=1e-12))
        for name, value in expected.items()
    }
    worst = max(relative, key=lambda name: relative[name])
    return Measured(value=relative[worst], detail=f"{worst}, of {len(relative)} parameters")


def step_gradients(model: Any, inputs: dict[str, Any], device: torch.device) -> dict[str, torch.Tensor]:
    """Gradients of one step by name, on the CPU."""
    moved = {name: value.to(device) if torch.is_tensor(value) else value for name, value in inputs.items()}
    model(**moved).loss.backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def marked_tests(setup: Setup) -> Measured:
    """Tests that do on this device what they do on a CPU elsewhere.

    Raises:
        RuntimeError: if none of them ran.
    """
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    limit = setup.seconds_left() + TESTS_GRACE_S
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PYTEST, "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"],
        cwd=ROOT, capture_output=True, text=True, env=environment, timeout=limit, check=False,
    )  # fmt: skip
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    if not counts.get("passed") and not counts.get("failed"):
        raise RuntimeError(f"no test ran: {(done.stdout + done.stderr).strip().splitlines()[-1:]}")
    shown = ", ".join(f"{number} {word}" for word, number in counts.items())
    output = done.stdout[-4000:] if done.returncode else ""
    return Measured(
        value=counts.get("failed", 0) + counts.get("error", 0), detail=shown, figures=counts | {"output": output}
    )
