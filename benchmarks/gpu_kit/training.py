"""A training step with frozen towers: how much of the hardware it uses, and what it takes against the released way.

Towers are held in bfloat16, what trains in float32 under autocast; the optimizer's step is part of the step.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch._dynamo

from benchmarks.flops import needed_flops, peak_rate, product_rate, utilisation
from benchmarks.gpu_kit.cells import Cell, Measured, Setup, first_line, free_memory, median
from benchmarks.gpu_kit.shapes import KINDS, cosmo_model, hold_for_training, training_inputs


GOALS = {"pairs": ">= 50", "clips": ">= 50", "interleaved": ">= 45"}
"""Utilisation in percent, at the best micro-batch."""
WARM_UP, TIMED = 2, 3
COMPILING_S = 25.0
"""Six graphs, forward and backward, on a machine that has none of them yet."""
WORSE = 0.97
"""A larger micro-batch is tried as long as the last one came to this share of the best rate."""


def cells(setup: Setup) -> list[Cell]:
    """The variant of the goals first, beside the released way; then what has to be compiled, and the other variant."""
    first, *others = setup.shape.variants
    found: list[Cell] = [Cell(name="large bfloat16 product", unit="TFLOP/s", measure=partial(ceiling, setup))]
    found.append(
        Cell(
            name="memory of a frozen weight", unit="bytes", goal="<= 2.0", measure=partial(frozen_bytes, setup, first)
        )
    )
    best: dict[tuple[str, str], Any] = {}
    found += [_step_cell(setup, first, kind, False, best) for kind in KINDS]
    found += [
        Cell(
            name=f"samples/s against the released way, {kind}, {first}", goal=">= 2.0",
            measure=partial(against_released, setup, first, kind, best),
        )
        for kind in KINDS
    ]  # fmt: skip
    found += [_step_cell(setup, first, kind, True, best) for kind in KINDS]
    for variant in others:
        found += [_step_cell(setup, variant, kind, compiled, best) for compiled in (False, True) for kind in KINDS]
    return found


def _step_cell(setup: Setup, variant: str, kind: str, compiled: bool, best: dict[tuple[str, str], Any]) -> Cell:
    way = "compiled" if compiled else "eager"
    return Cell(
        name=f"utilisation, {kind}, {variant}, {way}", unit="%", goal=GOALS[kind],
        measure=partial(best_step, setup, variant, kind, compiled, best), needs_s=COMPILING_S if compiled else 0.0,
    )  # fmt: skip


def ceiling(setup: Setup) -> Measured:
    """What a product that does nothing else reaches."""
    rate, (peak, source) = product_rate(setup.device), peak_rate(setup.device)
    return Measured(value=rate / 1e12, detail=f"utilisation divides by {peak / 1e12:.1f} TFLOP/s ({source})")


def frozen_bytes(setup: Setup, variant: str) -> Measured:
    """Bytes of all frozen parameters through their number."""
    model = hold_for_training(cosmo_model(setup.shape, variant, setup.device, torch.bfloat16))
    kept = {frozen: [p for p in model.parameters() if p.requires_grad != frozen] for frozen in (True, False)}
    counts = {frozen: sum(p.numel() for p in parameters) for frozen, parameters in kept.items()}
    frozen = sum(p.nbytes for p in kept[True]) / counts[True]
    return Measured(
        value=frozen,
        detail=f"{counts[True]:,} frozen, {counts[False]:,} trained in float32; held so by this benchmark, while "
        "`cosmo train` keeps the dtype of the files",
    )


def best_step(
    setup: Setup, variant: str, kind: str, compiled: bool, best: dict[tuple[str, str], dict[str, Any]]
) -> Measured:
    """Micro-batches from small to large, as far as they fit and pay; compiled: at the best eager one alone."""
    model = hold_for_training(cosmo_model(setup.shape, variant, setup.device, torch.bfloat16))
    if compiled:
        compile_layers(model, setup.device)
    known = best.get((variant, kind))
    sizes = setup.shape.micro_batches[kind]
    if compiled:
        sizes = (known["micro_batch"],) if known else sizes[:1]
    runs = sweep(setup, model, kind, sizes)
    figures = max(runs, key=lambda run: run["utilisation"])
    if not compiled:
        best[variant, kind] = figures
    tried = ", ".join(f"{run['micro_batch']}: {100 * run['utilisation']:.1f} %" for run in runs)
    return Measured(
        value=100 * figures["utilisation"], detail=f"{describe(figures)}; {tried}", figures=figures | {"runs": runs}
    )


def sweep(setup: Setup, model: Any, kind: str, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Figures of each micro-batch that fits.

    Raises:
        torch.OutOfMemoryError: if not even the first fits.
    """
    optimizer = make_optimizer(model, setup.device)
    step_on = lambda inputs: training_step(model, inputs, optimizer)
    return try_sizes(setup, model.config, kind, sizes, step_on, optimizer)


def make_optimizer(model: Any, device: torch.device) -> torch.optim.Optimizer:
    """AdamW on what trains, in one kernel where there is one."""
    return torch.optim.AdamW(trained(model), lr=1e-5, fused=device.type == "cuda")


def trained(model: Any) -> list[torch.nn.Parameter]:
    """The parameters that train."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def try_sizes(
    setup: Setup,
    config: Any,
    kind: str,
    sizes: tuple[int, ...],
    step_on: Callable[[dict[str, Any]], Callable[[], None]],
    optimizer: torch.optim.Optimizer,
) -> list[dict[str, Any]]:
    """Figures of ascending micro-batches, as long as they fit, there is time, and the last one was no worse.

    Raises:
        torch.OutOfMemoryError: if not even the first fits.
    """
    (peak, _), data = peak_rate(setup.device), KINDS[kind]
    runs: list[dict[str, Any]] = []
    for size in sizes:
        if runs and setup.time_is_up():
            break
        flops = needed_flops(config, size, data.length, data.media, frames=data.frames, contrastive=data.contrastive)
        try:
            step = step_on(training_inputs(setup.shape, kind, size, setup.device))
            runs.append(measure_step(step, setup, size, data.length, flops, peak))
            del step
        except Exception as error:  # most often too little memory, in one of the words for it
            if not runs or isinstance(error, torch.AcceleratorError):
                raise
            runs[-1]["next_failed"] = f"{size}: {type(error).__name__}: {first_line(error)}"
            break
        finally:
            optimizer.zero_grad(set_to_none=True)
            free_memory(setup.device)
        if runs[-1]["samples_per_s"] < WORSE * max(run["samples_per_s"] for run in runs):
            break
    return runs


def measure_step(
    step: Callable[[], object],
    setup: Setup,
    rows: int,
    length: int,
    flops: float,
    peak: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Median time of a step and what follows from it.

    Args:
        step: one whole training step of `rows` samples.
        setup: knows how to wait for the device.
        rows: samples.
        length: tokens of a sample.
        flops: that the step needs.
        peak: operations a second of the hardware.
        clock: in seconds.
    """
    on_gpu = setup.device.type == "cuda"
    times = []
    for index in range(WARM_UP + TIMED):
        if on_gpu and index == WARM_UP:
            torch.cuda.reset_peak_memory_stats(setup.device)
        setup.wait()
        started = clock()
        step()
        setup.wait()
        if index >= WARM_UP:
            times.append(clock() - started)
    seconds = median(times)
    return {
        "micro_batch": rows,
        "step_s": seconds,
        "samples_per_s": rows / seconds,
        "tokens_per_s": rows * length / seconds,
        "needed_tflop": flops / 1e12,
        "utilisation": utilisation(flops, seconds, peak),
        "peak_gib": torch.cuda.max_memory_allocated(setup.device) / 2**30 if on_gpu else None,
    }


def training_step(model: Any, inputs: dict[str, Any], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Forward under autocast, backward, and the optimizer's step."""
    device_type = inputs["input_ids"].device.type

    def step() -> None:
        with torch.autocast(device_type, torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def compile_layers(model: Any, device: torch.device) -> int:
    """Compile each layer by itself: as many graphs as there are kinds of layers, in seconds instead of minutes.

    Returns:
        How many layers were compiled.
    """
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64  # all layers share one function, whose graphs count together
    kinds = ("CLIPEncoderLayer", "CosmoResamplerLayer", "CosmoDecoderLayer")
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    for layer in layers:
        layer.compile(dynamic=False, backend="inductor" if device.type == "cuda" else "eager")
    return len(layers)


def against_released(setup: Setup, variant: str, kind: str, best: dict[tuple[str, str], dict[str, Any]]) -> Measured:
    """Our best eager rate through that of the released way, at the best micro-batch of each."""
    ours = best.get((variant, kind))
    if ours is None:
        raise RuntimeError("our own way was not measured")
    with released_way(setup, variant) as (model, optimizer, scaler):
        step_on = lambda inputs: released_step(model, inputs, optimizer, scaler)
        runs = try_sizes(setup, model.config, kind, setup.shape.micro_batches[kind], step_on, optimizer)
    released = max(runs, key=lambda run: run["samples_per_s"])
    return Measured(
        value=ours["samples_per_s"] / released["samples_per_s"],
        detail=f"{ours['samples_per_s']:.0f} samples/s; released way: {describe(released)}",
        figures={"released": released},
    )


@contextmanager
def released_way(setup: Setup, variant: str) -> Iterator[tuple[Any, torch.optim.Optimizer, torch.amp.GradScaler]]:
    """Everything in float32 with float16 autocast and a scaler, attention written out."""
    model = cosmo_model(setup.shape, variant, setup.device, torch.float32)
    model.set_attn_implementation("eager")
    model.freeze_towers()
    model.train()
    optimizer = torch.optim.AdamW(trained(model), lr=1e-5)
    yield model, optimizer, torch.amp.GradScaler(setup.device.type)


def released_step(
    model: Any, inputs: dict[str, Any], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Callable[[], None]:
    """As `training_step`, keeping the vision tower's activations until the step is over."""
    device_type = inputs["input_ids"].device.type
    pixels = inputs["pixel_values"].clone().requires_grad_()  # so that the tower records what nobody will ask for
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}

    def step() -> None:
        with torch.autocast(device_type, torch.float16):
            kept = model.encode_frames(pixels)
            loss = model(**rest, vision_features=kept.detach()).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        del kept

    return step


def describe(figures: dict[str, Any]) -> str:
    """A measured step in words."""
    memory = "" if figures["peak_gib"] is None else f", peak {figures['peak_gib']:.1f} GiB"
    return (
        f"micro-batch {figures['micro_batch']}: {1e3 * figures['step_s']:.1f} ms a step, "
        f"{figures['samples_per_s']:,.0f} samples/s, {figures['tokens_per_s']:,.0f} tokens/s{memory}"
    )
