"""In comes the list of a build's videos; out goes one outcome a video, made by processes here, by Slurm or by Ray."""

from functools import partial

from dataset_builder.engines.cluster import ClusterSettings
from dataset_builder.engines.local import run_local
from dataset_builder.engines.work import Engine, Work


__all__ = ["ENGINES", "ClusterSettings", "Engine", "Work", "make_engine", "run_local"]
ENGINES = ("local", "slurm", "ray", "ray-data")


def make_engine(name: str, cluster: ClusterSettings | None = None) -> Engine:
    """Look up an engine by its name.

    Args:
        name: `local`, `slurm`, `ray` (each rank is a task) or `ray-data` (Ray Data, which runs stages with models and
            stages without in parallel).
        cluster: resources that a rank requests from the cluster.

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
