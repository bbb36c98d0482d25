"""Register the marks of transformers' own tests with pytest."""

import sys

import pytest

from tests.library.fetch_suite import PACKAGE


MARKS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "is_agent_test",
    "is_expert_parallel_test", "is_fsdp_test", "is_pipeline_test", "is_staging_test", "is_tensor_parallel_test",
    "is_training_test", "order", "torch_compile_test",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks, as `--strict-markers` requires."""
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers' own tests")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed the suite's own generator of ids and pixels, which it would seed from the clock."""
    for module in ("test_modeling_common", "test_processing_common"):
        loaded = sys.modules.get(f"{PACKAGE}.{module}")
        if loaded is not None:
            loaded.global_rng.seed(0)
