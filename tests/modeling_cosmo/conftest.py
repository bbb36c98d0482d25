"""Tiny towers and models, and the place of the parity fixtures."""

import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from modeling_cosmo import CosmoProcessor
from tests.modeling_cosmo.tiny import build, open_gates, tiny_tokenizer, tiny_vision


@pytest.fixture(scope="session")
def parity_dir():
    """Fixtures made by running the released code: COSMO_PARITY, or the folder `parity` next to COSMO_SAMPLES."""
    if named := os.environ.get("COSMO_PARITY"):
        return Path(named)
    beside = Path(os.environ.get("COSMO_SAMPLES", "/nowhere")).parent / "parity"
    if not beside.is_dir():
        pytest.skip(
            "no parity fixtures: COSMO_PARITY is not set and there is no folder `parity` next to COSMO_SAMPLES"
        )
    return beside


@pytest.fixture
def processor():
    return CosmoProcessor.from_towers(tiny_vision(), tiny_tokenizer(), num_frames=3)


@pytest.fixture
def model(processor):
    """A model whose gates are open, so that media matter."""
    torch.manual_seed(5)
    options = {"resampler_heads": 2, "resampler_head_dim": 8, "cross_attention_head_dim": 8, "max_frames": 3}
    return open_gates(build("opt", processor, **options))


@pytest.fixture
def pictures():
    """Seven pictures of noise, of different sizes."""
    generator = torch.Generator().manual_seed(3)
    arrays = [torch.randint(0, 256, (13 + i, 17, 3), generator=generator, dtype=torch.uint8).numpy() for i in range(7)]
    return [Image.fromarray(array) for array in arrays]


@pytest.fixture
def served(tmp_path):
    """Address at which this machine serves `tmp_path`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()
