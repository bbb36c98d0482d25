"""Tells pytest about the marks that transformers' own tests bear."""

import sys

import pytest

from tests.library.fetch_suite import PACKAGE


MARKS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "is_agent_test",
    "is_expert_parallel_test", "is_fsdp_test", "is_pipeline_test", "is_staging_test", "is_tensor_parallel_test",
    "is_training_test", "order", "torch_compile_test",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """`--strict-markers` refuses what is not named."""
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers' own tests")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The suite draws ids and pixels from a generator of its own, which it leaves to the clock."""
    for module in ("test_modeling_common", "test_processing_common"):
        loaded = sys.modules.get(f"{PACKAGE}.{module}")
        if loaded is not None:
            loaded.global_rng.seed(0)
