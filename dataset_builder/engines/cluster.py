"""Resources that a rank requests from a cluster. They are not in the recipe, as they change no byte of the corpus."""

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from dataset_builder.draft import positive
from dataset_builder.recipe import read_settings


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Resources of one rank, for Slurm and Ray."""

    cpus_per_rank: int = 1
    """Processors; the stages of a rank run in one process, so more processors mean more memory and little else."""
    memory_gb_per_cpu: int = 2
    """Memory per processor, in GiB."""
    gpus_per_rank: int = 0
    """1 if the recipe names models that should run on a GPU; Slurm and Ray let each rank see only its own GPU."""
    partition: str = "normal"
    """Slurm: partition for the jobs."""
    time: str = "24:00:00"
    """Slurm: time limit of a rank, in the format of sbatch. A rank that exceeds it continues in the next run."""
    account: str | None = None
    """Slurm: account to charge."""
    qos: str | None = None
    """Slurm: quality of service."""
    setup: str | None = None
    """Slurm: shell command that activates the environment; null puts the submitting environment on the path."""

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
