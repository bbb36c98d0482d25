"""Fixtures that several folders of tests share; what one folder needs stays in that folder."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """The folder of real videos and texts that COSMO_SAMPLES names."""
    folder = os.environ.get("COSMO_SAMPLES")
    if not folder:
        pytest.skip("COSMO_SAMPLES is not set: it names a folder with real videos")
    if not Path(folder).is_dir():
        pytest.fail(f"COSMO_SAMPLES names {folder}, which is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved CosMo of a few kilobytes, with its code and processor."""
    from tests.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
