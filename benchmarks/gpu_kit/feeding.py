"""Whether processor and PyAV, in worker processes, keep up with a training step."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, CLIPVisionConfig

from benchmarks.gpu_kit.cells import Cell, Measured, Setup, num_processors
from benchmarks.gpu_kit.shapes import KINDS, cosmo_model, hold_for_training
from benchmarks.gpu_kit.training import make_optimizer, training_step
from dataset_builder.toy.train_towers import SHIPPED
from dataset_builder.toy.videos import encode_mp4
from dataset_builder.video.decode import frames_at, middle_times
from modeling_cosmo import CosmoProcessor


CAPTION = "a red star rolls left in front of the bricks"
NUM_VIDEOS, CLIPS_PER_VIDEO, CLIP_S, FRAME_RATE_HZ, SIZE_PX = 4, 5, 2.0, 24, (240, 320)
NUM_FRAMES = KINDS["clips"].frames
MAX_WORKERS = 15


def cells(setup: Setup) -> list[Cell]:
    """The workers alone, and before a step."""
    workers = num_workers(setup)
    return [
        Cell(name="clips decoded and prepared", unit="clips/s", measure=partial(decoding_rate, setup, workers)),
        Cell(name="share of a step spent waiting for clips", unit="%", measure=partial(waiting, setup, workers)),
    ]


def num_workers(setup: Setup) -> int:
    """All processors but one, and no more than a job on one of eight GPUs of a machine has."""
    return 1 if setup.device.type == "cpu" else max(1, min(MAX_WORKERS, num_processors() - 1))


class Clips(Dataset[dict[str, torch.Tensor]]):
    """Clips of a few videos over and over, each decoded and prepared when it is asked for."""

    def __init__(self, videos: list[Path], processor: Any, visual_token_id: int, num: int) -> None:
        self.videos, self.processor, self.num = videos, processor, num
        self.length, self.visual_token_id = KINDS["clips"].length, visual_token_id

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        video = self.videos[index % len(self.videos)]
        start_s = CLIP_S * (index // len(self.videos) % CLIPS_PER_VIDEO)
        frames = frames_at(video, middle_times(start_s, start_s + CLIP_S, NUM_FRAMES))  # (F, H, W, 3)
        inputs = self.processor(text=[self.processor.interleave([CAPTION])], videos=[[list(frames)]])
        ids = inputs["input_ids"][0, : self.length]
        ids = ids.where(ids != self.processor.token_ids()["visual_token_id"], self.visual_token_id)
        padding = (0, self.length - len(ids))
        pad = torch.nn.functional.pad
        return {
            "input_ids": pad(ids, padding, value=self.processor.tokenizer.pad_token_id),
            "attention_mask": pad(inputs["attention_mask"][0, : self.length], padding),
            "pixel_values": inputs["pixel_values"][0],  # (1, F, 3, height, width)
        }


def write_videos(folder: Path) -> list[Path]:
    """Noise that moves, in H.264 of ordinary size."""
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (*SIZE_PX, 3), dtype=np.uint8)
    num_frames = int(CLIPS_PER_VIDEO * CLIP_S * FRAME_RATE_HZ)
    paths = []
    for index in range(NUM_VIDEOS):
        path = folder / f"feed-{index}.mp4"
        paths.append(path)
        if path.is_file():  # from the cell before
            continue
        frames = np.stack([np.roll(picture, shift=(index + 2) * step, axis=1) for step in range(num_frames)])
        encode_mp4(frames, path, frame_rate_hz=FRAME_RATE_HZ)
    return paths


def batches(
    setup: Setup, workers: int, rows: int, num: int, prefetch_factor: int = 4
) -> Iterator[dict[str, torch.Tensor]]:
    """So many batches of clips from worker processes."""
    vision = CLIPVisionConfig(**setup.shape.vision)
    processor = CosmoProcessor.from_towers(
        _VisionOfSize(vision), AutoTokenizer.from_pretrained(SHIPPED / "opt"), num_frames=NUM_FRAMES
    )
    clips = Clips(write_videos(setup.folder), processor, setup.shape.visual_token_id, rows * num)
    loader: DataLoader[Any] = DataLoader(
        clips, batch_size=rows, num_workers=workers, prefetch_factor=prefetch_factor,
        pin_memory=setup.device.type == "cuda",
    )  # fmt: skip
    return iter(loader)


class _VisionOfSize:
    """What a processor asks of a vision tower: its config."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        self.config = config


def rows_of(setup: Setup) -> int:
    """A middling micro-batch."""
    sizes = setup.shape.micro_batches["clips"]
    return sizes[len(sizes) // 2]


def decoding_rate(setup: Setup, workers: int) -> Measured:
    """Clips of three frames a second, while all workers are at work."""
    rows, num = (8, 6 * workers) if setup.device.type == "cuda" else (2, 8)
    rate = rows * steady_rate(batches(setup, workers, rows, num, prefetch_factor=1), num, workers)
    height, width = SIZE_PX
    return Measured(
        value=rate,
        detail=f"{NUM_FRAMES} frames of {width}x{height} H.264 each; {workers} workers, {rate / workers:.0f} a worker",
    )


def steady_rate(
    batches: Iterable[Any], num: int, workers: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Batches a second between the start of the workers and their end.

    The first two of each worker were under way while they started, and at the end some have nothing left to do.

    Args:
        batches: handed out in order, made by the workers meanwhile.
        num: of them; more than three times the workers.
        workers: that make them.
        clock: in seconds.
    """
    times = [clock() for _ in batches]
    assert len(times) == num > 3 * workers
    first, last = 2 * workers - 1, num - workers - 1
    return (last - first) / (times[last] - times[first])


def waiting(setup: Setup, workers: int) -> Measured:
    """Training steps on clips as they come."""
    rows, num = rows_of(setup), 16 if setup.device.type == "cuda" else 4
    variant = next(iter(setup.shape.variants))
    model = hold_for_training(cosmo_model(setup.shape, variant, setup.device, torch.bfloat16))
    optimizer = make_optimizer(model, setup.device)

    def step(batch: dict[str, torch.Tensor]) -> None:
        inputs = {name: value.to(setup.device, non_blocking=True) for name, value in batch.items()}
        training_step(model, inputs | {"labels": inputs["input_ids"], "compute_contrastive": True}, optimizer)()
        setup.wait()

    found = batches(setup, workers, rows, num + 2)
    for _ in range(2):  # workers and kernels start
        step(next(found))
    share, step_s = waiting_share(found, step)
    return Measured(
        value=100 * share,
        detail=f"{workers} workers, micro-batch {rows}, {1e3 * step_s:.0f} ms a step, waiting included",
    )


def waiting_share(
    batches: Iterable[Any], step: Callable[[Any], object], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Share of the time that is spent waiting for the next batch, and the mean time of a step with its wait.

    Args:
        batches: what the steps take; an iterator that others fill meanwhile.
        step: returns when the device is done.
        clock: in seconds.

    Raises:
        ValueError: if there are no batches.
    """
    source, waited_s, num = iter(batches), 0.0, 0
    begun = clock()
    while True:
        asked = clock()
        batch = next(source, _END)
        if batch is _END:
            whole_s = asked - begun
            break
        waited_s += clock() - asked
        step(batch)
        num += 1
    if not num:
        raise ValueError("no batches to wait for")
    return waited_s / whole_s, whole_s / num


_END = object()
