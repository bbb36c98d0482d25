"""What a rank asks of a cluster. It changes no byte of the corpus, so it stands beside the recipe and not in it."""

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from dataset_builder.draft import positive
from dataset_builder.recipe import read_settings


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Resources of one rank, for Slurm and Ray."""

    cpus_per_rank: int = 1
    """Processors; the stages of a rank run in one process, so more of them mean more memory and little else."""
    memory_gb_per_cpu: int = 2
    """Memory for each of them, in GiB."""
    gpus_per_rank: int = 0
    """1 where the recipe names models that should run on a GPU; Slurm and Ray show each rank its own alone."""
    partition: str = "normal"
    """Slurm: where the jobs queue."""
    time: str = "24:00:00"
    """Slurm: time limit of a rank, as sbatch writes it. A rank that runs into it goes on in the next run."""
    account: str | None = None
    """Slurm: who pays."""
    qos: str | None = None
    """Slurm: quality of service."""
    setup: str | None = None
    """Slurm: shell line that enters the environment; null puts the one that submits on the path."""

    def __post_init__(self) -> None:
        positive(self, "cpus_per_rank", "memory_gb_per_cpu")
        if self.gpus_per_rank not in (0, 1):
            raise ValueError(f"gpus_per_rank is {self.gpus_per_rank}; expected 0 or 1 (a rank is one process)")


def load_cluster(file: Path) -> ClusterSettings:
    """Read the settings from a YAML file.

    Raises:
        ValueError: if it cannot be read, or holds an unknown key or a value of the wrong type.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the cluster file {file}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        known = ", ".join(item.name for item in fields(ClusterSettings))
        raise ValueError(f"cluster file {file} must hold keys and values (known: {known})")
    return read_settings(ClusterSettings, values, f"cluster file {file}")
