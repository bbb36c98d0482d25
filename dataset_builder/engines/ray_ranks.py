"""The engine `ray`: the plan's ranks as tasks on a Ray cluster, through datatrove's executor."""

from typing import Any

from dataset_builder.engines.cluster import ClusterSettings
from dataset_builder.engines.plan import VIDEOS_PER_RANK, make_plan, ranks_in_words
from dataset_builder.engines.queued import refuse_beside_jobs
from dataset_builder.engines.work import Work
from dataset_builder.errors import BuildStopped


GIB = 1024**3


def run_on_ray(work: Work, cluster: ClusterSettings, videos_per_rank: int = VIDEOS_PER_RANK) -> str:
    """Make the missing outcomes on the cluster at `RAY_ADDRESS`, else on one that is started on this machine.

    Input, output and this environment must be on a disk that all nodes share.

    Raises:
        ValueError: if Ray or datatrove is not installed, or no node has the resources that a rank requests.
        BuildStopped: if ranks failed; the others are done, and the next run redoes only the failed ones.
    """
    refuse_beside_jobs(work)
    if not work.missing():
        return ""
    try:
        from datatrove.executor.ray import RayPipelineExecutor
        from loguru import logger
    except ImportError as error:
        raise ValueError("engine ray needs datatrove: pip install 'cosmo-vlm[ray]'") from error
    connect_to_ray(cluster)
    from dataset_builder.engines.steps import RankStep

    logger.disable("datatrove")
    plan = make_plan(work, videos_per_rank)
    incomplete = plan.incomplete()
    for rank in incomplete:  # a completion marker without outcomes would keep its rank from running
        (plan.folder / "ranks" / "completions" / f"{rank:05d}").unlink(missing_ok=True)
    RayPipelineExecutor(
        pipeline=[RankStep(str(plan.folder))],
        tasks=plan.num_ranks,
        workers=work.workers or -1,
        logging_dir=str(plan.folder / "ranks"),
        cpus_per_task=cluster.cpus_per_rank,
        mem_per_cpu_gb=cluster.memory_gb_per_cpu,
        gpus_per_task=cluster.gpus_per_rank,
    ).run()
    failed = plan.incomplete()
    if failed:
        raise BuildStopped(
            f"{ranks_in_words(failed)} of {plan.num_ranks} failed (logs in {plan.folder / 'ranks' / 'logs'}); "
            "run again to redo them alone"
        )
    return ""


def connect_to_ray(cluster: ClusterSettings) -> Any:
    """Import `ray` and connect; refuse ranks that fit on no node, because Ray would wait for a larger one.

    Raises:
        ValueError: if Ray is not installed, or no node is large enough.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("engine ray needs Ray: pip install 'cosmo-vlm[ray]'") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    asked = {
        "CPU": cluster.cpus_per_rank,
        "memory": cluster.cpus_per_rank * cluster.memory_gb_per_cpu * GIB,
        "GPU": cluster.gpus_per_rank,
    }
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        wanted = f"{asked['CPU']} CPUs, {asked['memory'] / GIB:g} GiB, {asked['GPU']} GPUs"
        raise ValueError(f"no node of the Ray cluster has what a rank asks for ({wanted}); change the cluster file")
    return ray
