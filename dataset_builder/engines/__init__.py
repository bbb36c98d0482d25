"""Who runs the stages that see one video at a time: this machine's processes, Slurm, or Ray.

An engine makes the outcomes that a build is missing (outcomes.py); putting them together is the same for all, so the
corpus is the same to the byte. Engines are no part of a recipe and change nothing that a build remembers.
"""

from collections.abc import Callable
from functools import partial

from dataset_builder.engines.cluster import ClusterSettings
from dataset_builder.engines.local import run_local
from dataset_builder.engines.work import Work


__all__ = ["ENGINES", "ClusterSettings", "Engine", "Work", "make_engine", "run_local"]
ENGINES = ("local", "slurm", "ray", "ray-data")

Engine = Callable[[Work], str]
"""Makes the missing outcomes and returns ""; or hands the work to a queue and says so in one line."""


def make_engine(name: str, cluster: ClusterSettings | None = None) -> Engine:
    """An engine by its name.

    Args:
        name: `local`, `slurm`, `ray` (each rank is a task) or `ray-data` (Ray Data, where the stages with models
            overlap with those without).
        cluster: what a rank asks of the cluster.

    Raises:
        ValueError: for another name.
    """
    cluster = cluster or ClusterSettings()
    if name == "local":
        return run_local
    if name == "slurm":
        from dataset_builder.engines.slurm import run_on_slurm

        return partial(run_on_slurm, cluster=cluster)
    if name == "ray":
        from dataset_builder.engines.ray_ranks import run_on_ray

        return partial(run_on_ray, cluster=cluster)
    if name == "ray-data":
        from dataset_builder.engines.ray_data import run_on_ray_data

        return partial(run_on_ray_data, cluster=cluster)
    raise ValueError(f"no engine {name!r}; expected one of {', '.join(ENGINES)}")
