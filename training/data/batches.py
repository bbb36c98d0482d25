"""Micro-batches of one process, addressed by number."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch

from training.config import TrainingConfig
from training.data.collate import Collator
from training.data.samples import Source
from training.data.sampling import rows_of_rank, source_schedule


class Batch(NamedTuple):
    """A micro-batch, with its source and whether it counts in the contrastive loss."""

    source: str
    contrastive: bool
    inputs: dict[str, torch.Tensor]


class Batches:
    """Batches of a split: every process draws the same global batch and collates its own rows of it."""

    def __init__(
        self, sources: dict[str, Source], collator: Collator, config: TrainingConfig, num_processes: int, rank: int
    ) -> None:
        self.sources, self.collator, self.config = sources, collator, config
        self.num_processes, self.rank = num_processes, rank
        weights = {name: config.weight(name) for name in sources}
        self.schedule = source_schedule(weights, config.seed, config.max_steps * config.gradient_accumulation_steps)

    def starting_at(self, micro_step: int) -> Iterator[Batch]:
        """Yield the batches from number `micro_step` to the end of the schedule."""
        drawn = Counter(self.schedule[:micro_step])
        for name in self.schedule[micro_step:]:
            yield self._collate(name, drawn[name])
            drawn[name] += 1

    def validation(self) -> Iterator[Batch]:
        """Yield the same batches at every call: about `eval_samples` samples of each source."""
        for name in self.sources:
            global_size = self.config.batch_size(name) * self.num_processes
            for number in range(max(1, self.config.eval_samples // global_size)):
                yield self._collate(name, number)

    def _collate(self, name: str, number: int) -> Batch:
        """Collate this process's rows of a source's batch, given by its number."""
        size = self.config.batch_size(name)
        global_size = size * self.num_processes
        samples = self.sources[name].draw(number * global_size, global_size)
        return Batch(name, samples.contrastive, self.collator(samples.rows(rows_of_rank(size, self.rank))))
