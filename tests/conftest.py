"""Fixtures shared by several folders of tests; fixtures for one folder are in that folder."""

import os
import random
import sys
from pathlib import Path

import pytest


# Set before anything reads them: the tests' servers are on this machine, whatever its proxy, and results are compared
# with those of CPU processes, whatever GPUs there are (name one in the variable to try it there).
os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """The folder of real videos and texts that COSMO_SAMPLES names."""
    folder = os.environ.get("COSMO_SAMPLES")
    if not folder:
        pytest.skip("COSMO_SAMPLES is not set: it names a folder with real videos")
    if not Path(folder).is_dir():
        pytest.fail(f"COSMO_SAMPLES names {folder}, which is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved CosMo of a few kilobytes, with its code and processor."""
    from tests.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed anew for each test and its fixtures, so that the distribution of tests over workers changes no number."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
