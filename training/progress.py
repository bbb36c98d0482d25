"""Numbers of a logged line: losses per source since the previous line, and their cost in time and memory."""

import resource
import time
from typing import Any

import torch
from accelerate import Accelerator

from training.data.batches import Batch


LOSSES = ("loss", "lm_loss", "contrastive_loss")


class LossWindow:
    """Running sums of losses on the device, so that no step waits for a number.

    Columns per source: the three losses, the batches, and the batches with a contrastive loss.
    """

    def __init__(self, sources: list[str], device: torch.device) -> None:
        self.sources = sources
        self.sums = torch.zeros(len(sources), len(LOSSES) + 2, dtype=torch.float64, device=device)

    def add(self, source: str, loss: torch.Tensor, lm_loss: torch.Tensor, contrastive: torch.Tensor | None) -> None:
        """Add one micro-batch; its losses are this process's share of the losses of the global batch."""
        none = contrastive is None
        values = [loss, lm_loss, torch.zeros_like(loss) if contrastive is None else contrastive]
        counts = torch.tensor([1.0, float(not none)], dtype=torch.float64, device=loss.device)
        self.sums[self.sources.index(source)] += torch.cat([torch.stack(values).detach().double(), counts])

    def state(self, accelerator: Accelerator) -> dict[str, list[float]]:
        """Return the sums, averaged over the processes, as JSON values."""
        sums = accelerator.reduce(self.sums.clone(), reduction="mean").tolist()
        return dict(zip(self.sources, sums, strict=True))

    def load(self, state: dict[str, list[float]]) -> None:
        """Load saved sums; every process takes the same mean, so the mean over processes is right again."""
        self.sums.copy_(torch.tensor([state[source] for source in self.sources], dtype=torch.float64))

    def close(self, accelerator: Accelerator) -> dict[str, Any]:
        """Return mean losses since the last call, overall and per source; `None` if no batch was contrastive."""
        state = self.state(accelerator)
        self.sums.zero_()
        total = [sum(column) for column in zip(*state.values(), strict=True)]
        return _means(total) | {"sources": {name: _means(sums) for name, sums in state.items() if sums[len(LOSSES)]}}


def _means(sums: list[float]) -> dict[str, float | None]:
    *losses, num_batches, num_contrastive = sums
    counts = (num_batches, num_batches, num_contrastive)
    return {name: value / count if count else None for name, value, count in zip(LOSSES, losses, counts, strict=True)}


class Clock:
    """Time, throughput and memory since the last reading; these differ between equal runs."""

    def __init__(self) -> None:
        self.start, self.media = time.perf_counter(), 0

    def count(self, batch: Batch) -> None:
        """Count the media of a batch."""
        self.media += int(batch.inputs["media_mask"].any(dim=-1).sum())

    def read(self, num_processes: int) -> dict[str, float]:
        """Return seconds, clips (media) per second over all processes, and this process's peak memory in GiB."""
        now = time.perf_counter()
        seconds, clips = now - self.start, self.media * num_processes
        self.start, self.media = now, 0
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reading = {"seconds": round(seconds, 3), "clips_per_s": round(clips / seconds, 1)}
        reading["peak_memory_gb"] = round(peak_kib / 2**20, 3)
        if torch.cuda.is_available():
            reading["peak_device_memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        return reading
