"""Where the time goes: the heaviest kernels, gaps between them, and where the host waits for the device.

Three steps of training and eight of decoding under torch's profiler. On a CPU its operators stand in for kernels.
"""

import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_kit.cells import Cell, Measured, Setup
from benchmarks.gpu_kit.generation import prompts, text_of
from benchmarks.gpu_kit.shapes import cosmo_model, hold_for_training, plain_model, training_inputs
from benchmarks.gpu_kit.training import make_optimizer, training_step


HEAVIEST = 20
STEPS, DECODE_STEPS = 3, 8
WAITING_OPERATORS = (
    "_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount",
)  # fmt: skip
"""Operators whose result, or its size, the host has to know before it can go on. Copies between host and device,
repeating by a tensor and picking by a boolean mask wait as well."""


def cells(setup: Setup) -> list[Cell]:
    """Training, decoding, and the plain model's decoding beside it."""
    variant = next(iter(setup.shape.variants))
    found = [
        Cell(
            name=f"training step, {variant}: idle between kernels", unit="%", measure=partial(training, setup, variant)
        ),
        Cell(
            name=f"decode step, {variant}: idle between kernels", unit="%", measure=partial(decoding, setup, variant)
        ),
        Cell(name="decode step, plain model: idle between kernels", unit="%", measure=partial(decoding, setup, "")),
    ]
    for name, measure in (("training", training_waits), ("decoding", decoding_waits)):
        found += [
            Cell(
                name=f"host waits inside forward, {name}, of CosMo's own", unit="a pass", goal="<= 0",
                measure=partial(measure, setup, variant, True),
            ),
            Cell(
                name=f"host waits inside forward, {name}, of the language model's", unit="a pass",
                measure=partial(measure, setup, variant, False),
            ),
        ]  # fmt: skip
    return found


def one_step(setup: Setup, variant: str) -> tuple[Any, Callable[[], None], dict[str, Any]]:
    """A model held for training, its step on a middling batch of pairs, and that batch."""
    model = hold_for_training(cosmo_model(setup.shape, variant, setup.device, torch.bfloat16))
    optimizer = make_optimizer(model, setup.device)
    sizes = setup.shape.micro_batches["pairs"]
    inputs = training_inputs(setup.shape, "pairs", sizes[len(sizes) // 2], setup.device)
    return model, training_step(model, inputs, optimizer), inputs


def training(setup: Setup, variant: str) -> Measured:
    """Three steps on pairs."""
    _, step, inputs = one_step(setup, variant)
    step()
    return profiled(setup, step, STEPS, f"{len(inputs['input_ids'])} pairs a step")


@torch.no_grad()
def decoder(setup: Setup, variant: str) -> tuple[Any, Callable[[], None]]:
    """A model after a prompt with pictures, and one more token; no variant: the plain model after the text."""
    inputs = prompts(setup, 1, setup.shape.pictures[0])
    options: dict[str, Any] = {"compute_contrastive": False} if variant else {}
    if variant:
        model = cosmo_model(setup.shape, variant, setup.device, torch.bfloat16)
    else:
        model, inputs = plain_model(setup.shape, setup.device, torch.bfloat16), text_of(inputs)
    cache = model(**inputs, use_cache=True, **options).past_key_values
    token = torch.full((1, 1), 11, device=setup.device)
    lengths = iter(range(setup.shape.prompt_length + 1, 10**6))
    ones = torch.ones(1, setup.shape.prompt_length + 64, dtype=torch.long, device=setup.device)

    @torch.no_grad()
    def step() -> None:
        mask = ones[:, : next(lengths)]
        model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True, **options)

    return model, step


def decoding(setup: Setup, variant: str) -> Measured:
    """Eight steps on a growing cache."""
    _, step = decoder(setup, variant)
    step()
    return profiled(setup, step, DECODE_STEPS, "batch 1, eager")


def profiled(setup: Setup, step: Callable[[], object], steps: int, what: str) -> Measured:
    """Idle share between the first kernel and the last, and the heaviest kernels among the figures."""
    on_gpu = setup.device.type == "cuda"
    plain_s = unprofiled_s(setup, step, steps)
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]  # both would slow the host's launches
    with profile(activities=activities):  # starting the profiler takes time of its own
        step()
        setup.wait()
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        setup.wait()
    kernels = device_kernels(profiler) if on_gpu else leaf_operators(profiler)
    if not kernels:
        raise RuntimeError("the profiler saw no kernels")
    idle, window_us = idle_share([(start, end) for _, start, end in kernels])
    heaviest = heaviest_of(kernels, steps)
    top = ", ".join(f"{row['name'][:40]} {100 * row['share']:.0f} %" for row in heaviest[:3])
    return Measured(
        value=100 * idle,
        detail=f"{what}; {window_us / 1e3 / steps:.2f} ms a step, {1e3 * plain_s:.2f} unprofiled; "
        f"{len(kernels) / steps:.0f} kernels a step; {top}",
        figures={"heaviest": heaviest, "step_ms": window_us / 1e3 / steps, "unprofiled_ms": 1e3 * plain_s},
    )


def unprofiled_s(setup: Setup, step: Callable[[], object], steps: int) -> float:
    """Seconds of a step on its own."""
    setup.wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    setup.wait()
    return (time.perf_counter() - started) / steps


def device_kernels(profiler: Any) -> list[tuple[str, float, float]]:
    """Name, start and end in microseconds of everything that ran on the GPU."""
    cuda = torch._C._autograd.DeviceType.CUDA
    return [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == cuda and not event.is_user_annotation
    ]


def leaf_operators(profiler: Any) -> list[tuple[str, float, float]]:
    """Operators on the CPU that called no other."""
    return [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if not event.cpu_children and event.name.startswith("aten::")
    ]


def idle_share(intervals: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Share of the time from the first start to the last end in which nothing ran, and that time."""
    ordered = sorted(intervals)
    begun, covered_to = ordered[0]
    busy = covered_to - begun
    for start, end in ordered[1:]:
        busy += max(0.0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
    window = covered_to - begun
    return (1 - busy / window if window else 0.0), window


def heaviest_of(kernels: list[tuple[str, float, float]], steps: int) -> list[dict[str, Any]]:
    """The kernels with the most time: their share of all kernels' time, milliseconds and calls of a step."""
    times: dict[str, list[float]] = defaultdict(list)
    for name, start, end in kernels:
        times[name].append(end - start)
    total = sum(map(sum, times.values())) or 1.0
    ordered = sorted(times.items(), key=lambda item: -sum(item[1]))[:HEAVIEST]
    return [
        {"name": name, "share": sum(of_name) / total, "ms": sum(of_name) / 1e3 / steps, "calls": len(of_name) / steps}
        for name, of_name in ordered
    ]


class HostWaits(TorchDispatchMode):
    """Notes every operator that makes the host wait for the device, with the code that asked for it.

    The operators are seen on any device; on a CPU they wait for nothing, but would on a GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note and go on."""
        name = func.overloadpacket.__name__
        if (
            name in WAITING_OPERATORS
            or (name in ("_to_copy", "copy_") and _changes_sides(args, kwargs or {}))
            or (name.startswith("index") and _picks_by_mask(args))
            or (name == "repeat_interleave" and func._overloadname == "Tensor")
        ):
            self.places.append(_asked_by())
        return func(*args, **(kwargs or {}))

    def count(self, *, own: bool) -> int:
        """Of CosMo's own code, or of the library's."""
        return sum(place.startswith("modeling_cosmo") == own for place in self.places)


def _changes_sides(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a copy goes from host to device or back."""
    target = kwargs.get("device")
    other = args[1] if len(args) > 1 and torch.is_tensor(args[1]) else None
    sides = {
        args[0].device.type,
        other.device.type if other is not None else torch.device(target or args[0].device).type,
    }
    return len(sides) > 1 and "cpu" in sides


def _picks_by_mask(args: Any) -> bool:
    """Whether an index is boolean, so that its entries have to be counted."""
    places = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(torch.is_tensor(place) and place.dtype == torch.bool for place in places)


def _asked_by() -> str:
    """Folder, file and line of the innermost frame that is not torch's or this file's."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "torch" not in path.parts and path != Path(__file__):
            return f"{path.parent.name}/{path.name}:{frame.lineno}"
    return "unknown"


def training_waits(setup: Setup, variant: str, own: bool) -> Measured:
    """Of the forward pass alone, on documents that are padded in texts and media, as collators make them."""
    model, _, _ = one_step(setup, variant)
    inputs = training_inputs(setup.shape, "interleaved", setup.shape.micro_batches["interleaved"][0], setup.device)
    inputs["attention_mask"][::2, -3:] = 0
    inputs["media_mask"] = torch.ones(inputs["pixel_values"].shape[:3], dtype=torch.bool, device=setup.device)
    inputs["media_mask"][::2, -1:] = False
    with HostWaits() as waits, torch.autocast(setup.device.type, torch.bfloat16):
        model(**inputs | {"compute_contrastive": True})
    return described(waits, own)


def decoding_waits(setup: Setup, variant: str, own: bool) -> Measured:
    """Of one step on a growing cache."""
    _, step = decoder(setup, variant)
    with HostWaits() as waits:
        step()
    return described(waits, own)


def described(waits: HostWaits, own: bool) -> Measured:
    """Their number and places."""
    places = sorted({place for place in waits.places if place.startswith("modeling_cosmo") == own})
    return Measured(value=waits.count(own=own), detail=", ".join(places), figures={"places": waits.places})
