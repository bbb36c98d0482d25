"""Generation beside the plain language model of the same shape, both in bfloat16, as ratios within one process."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig, LogitsProcessor, LogitsProcessorList

from benchmarks.gpu_kit.cells import Cell, Measured, Setup, median
from benchmarks.gpu_kit.shapes import PADDING, cosmo_model, plain_model, random_inputs


BEAMS = 3
COMPILING_S = 50.0
"""Two models of 24 layers, on a machine that has neither graph yet."""
TEXT = ("input_ids", "attention_mask")


def cells(setup: Setup) -> list[Cell]:
    """Single steps, then whole calls; what compiles for half a minute comes late."""
    first, *others = setup.shape.variants
    few, *_, many = setup.shape.batches
    some = setup.shape.pictures[len(setup.shape.pictures) // 2]
    step = lambda variant, batch, compiled, goal="": Cell(
        name=f"decode step, {_kind(compiled)}, {variant}, batch {batch}", goal=goal,
        measure=partial(compiled_step if compiled else eager_step, setup, variant, batch),
        needs_s=COMPILING_S if compiled else 0.0,
    )  # fmt: skip
    call = lambda batch, pictures, beams, compiled=False: Cell(
        name=f"{'greedy' if beams == 1 else f'beam {beams}'}, {setup.shape.new_tokens} tokens, {pictures} "
        f"picture{'s' if pictures > 1 else ''}, {_kind(compiled)}, {first}, batch {batch}",
        measure=partial(whole_call, setup, first, batch, pictures, beams, compiled=compiled),
        needs_s=COMPILING_S if compiled else 0.0,
    )
    return [
        *(step(variant, batch, False) for variant in (first, *others) for batch in (few, many)),
        *(call(few, pictures, 1) for pictures in setup.shape.pictures),
        step(first, few, True, "<= 1.15"),
        call(few, some, BEAMS),
        call(many, 1, 1),
        call(many, 1, BEAMS),
        call(few, some, 1, True),
        step(first, many, True),
        *(step(other, few, True) for other in others),
    ]


def _kind(compiled: bool) -> str:
    return "static cache, compiled" if compiled else "eager"


def build_pair(setup: Setup, variant: str) -> dict[str, Any]:
    """The plain language model, and CosMo on another of the same shape."""
    return {
        "plain": plain_model(setup.shape, setup.device, torch.bfloat16),
        "cosmo": cosmo_model(setup.shape, variant, setup.device, torch.bfloat16),
    }


def prompts(setup: Setup, batch: int, pictures: int) -> dict[str, torch.Tensor]:
    """Prompts with media, in the models' precision."""
    inputs = random_inputs(setup.shape, setup.device, rows=batch, length=setup.shape.prompt_length, media=pictures)
    return inputs | {"pixel_values": inputs["pixel_values"].to(torch.bfloat16)}


def text_of(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the plain language model reads of it."""
    return {name: inputs[name] for name in TEXT}


def interleaved(setup: Setup, calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round, the device waited for, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name in list(calls) if index % 2 else list(reversed(calls)):
            setup.wait()
            started = time.perf_counter()
            calls[name]()
            setup.wait()
            if index:
                times[name].append(time.perf_counter() - started)
    return times


def ratio(times: dict[str, list[float]], floor: list[str], unit_s: float = 1e-3) -> Measured:
    """Median over rounds of CosMo's time through the sum of what it is compared with."""
    ratios = [own / sum(parts) for own, *parts in zip(times["cosmo"], *(times[name] for name in floor), strict=True)]
    shown = {name: median(of_name) / unit_s for name, of_name in times.items()}
    parts = " + ".join(f"{name} {shown[name]:.2f}" for name in floor)
    return Measured(
        value=median(ratios), detail=f"{shown['cosmo']:.2f} ms to {parts} ms", figures={"times_s": dict(times)}
    )


@torch.no_grad()
def eager_step(setup: Setup, variant: str, batch: int) -> Measured:
    """One more token after a prompt with pictures, on a growing cache; the model's forward alone."""
    pictures = setup.shape.pictures[len(setup.shape.pictures) // 2]
    inputs, models = prompts(setup, batch, pictures), build_pair(setup, variant)
    num_steps, length = min(16, setup.shape.new_tokens), setup.shape.prompt_length
    token = torch.full((batch, 1), 11, device=setup.device)
    masks = [torch.ones(batch, length + 1 + step, dtype=torch.long, device=setup.device) for step in range(num_steps)]

    def steps_of(model: Any, given: dict[str, torch.Tensor], options: dict[str, Any]) -> Callable[[], object]:
        cache = model(**given, use_cache=True).past_key_values

        def steps() -> None:
            for mask in masks:
                model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
            cache.crop(-num_steps)

        return steps

    calls = {
        "plain": steps_of(models["plain"], text_of(inputs), {}),
        "cosmo": steps_of(models["cosmo"], inputs, {"compute_contrastive": False}),
    }
    times = interleaved(setup, calls, setup.shape.rounds)
    return ratio({name: [t / num_steps for t in of_name] for name, of_name in times.items()}, ["plain"])


class StepClock(LogitsProcessor):
    """Notes when each step of `generate` comes to its scores, on the device's own clock where it has one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[Any] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores as they are."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())
        return scores

    def seconds_a_step(self, skip: int = 2) -> float:
        """Mean over the steps after the first ones, which read the prompt and may compile."""
        last = len(self.marks) - 1
        return self.seconds_between(skip, last) / (last - skip)

    def seconds_between(self, one: int, other: int) -> float:
        """From the scores of one step to those of another."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return float(self.marks[one].elapsed_time(self.marks[other])) / 1e3
        return float(self.marks[other] - self.marks[one])


def generate_options(setup: Setup, *, compiled: bool, beams: int = 1) -> dict[str, Any]:
    """Always the same number of tokens; with a static cache transformers compiles the decoding step."""
    tokens = setup.shape.new_tokens
    options: dict[str, Any] = {
        "max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "num_beams": beams,
        "eos_token_id": None, "pad_token_id": PADDING,
    }  # fmt: skip
    if compiled:
        options |= {"cache_implementation": "static"}
        if setup.device.type != "cuda":  # transformers compiles on a CPU only where it is made to
            config: Any = CompileConfig(backend="eager", mode=cast(str, None))
            config._compile_all_devices = True
            options |= {"compile_config": config}
    return options


@torch.no_grad()
def compiled_step(setup: Setup, variant: str, batch: int) -> Measured:
    """A step inside `generate`, its own work between two passes of the model included, on both sides."""
    pictures = setup.shape.pictures[len(setup.shape.pictures) // 2]
    torch._dynamo.reset()
    inputs, models = prompts(setup, batch, pictures), build_pair(setup, variant)
    options = generate_options(setup, compiled=True)
    given = {"plain": text_of(inputs), "cosmo": inputs}
    times: dict[str, list[float]] = {name: [] for name in models}
    first_s: dict[str, list[float]] = {name: [] for name in models}
    for index in range(setup.shape.rounds + 2):  # two rounds compile and record
        for name, model in models.items():
            clock = StepClock(setup.device)
            with fully_compiled(setup) if index == 0 else nullcontext():
                model.generate(**given[name], **options, logits_processor=LogitsProcessorList([clock]))
            if index >= 2:
                times[name].append(clock.seconds_a_step())
                first_s[name].append(clock.seconds_between(0, 1))
    found = ratio(times, ["plain"])
    return replace(found, figures={**found.figures, "first_step_s": first_s})


@contextmanager
def fully_compiled(setup: Setup) -> Iterator[None]:
    """Refuse figures of a compiled way that was none: around the first call of one model.

    Raises:
        RuntimeError: if nothing was compiled inside, or on a GPU a graph was not recorded.
    """
    counters.clear()
    yield
    if not counters["stats"]["unique_graphs"]:
        raise RuntimeError("transformers did not compile the decoding step")
    if setup.device.type == "cuda" and (skips := counters["inductor"]["cudagraph_skips"]):
        raise RuntimeError(f"{skips} graphs run without CUDA graphs")


@torch.no_grad()
def whole_call(setup: Setup, variant: str, batch: int, pictures: int, beams: int, *, compiled: bool) -> Measured:
    """`generate` from pictures and prompt to the last token; the floor is the plain call and the vision tower."""
    inputs, models = prompts(setup, batch, pictures), build_pair(setup, variant)
    options = generate_options(setup, compiled=compiled, beams=beams)
    calls: dict[str, Callable[[], object]] = {
        "plain": partial(models["plain"].generate, **text_of(inputs), **options),
        "vision tower": partial(models["cosmo"].encode_frames, inputs["pixel_values"]),
        "cosmo": partial(models["cosmo"].generate, **inputs, **options),
    }
    if compiled:
        torch._dynamo.reset()
        for name in ("plain", "cosmo"):
            with fully_compiled(setup):
                calls[name]()
        interleaved(setup, calls, 1)  # records what is still to be recorded
    return ratio(interleaved(setup, calls, setup.shape.rounds), ["plain", "vision tower"])
