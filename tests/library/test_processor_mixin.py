"""CosmoProcessor under the tests that transformers runs on its own processors.

The suite is fetched, not copied (`make library`); without it this module is skipped. It reads pictures and videos of
the Hub, which are replaced by small ones made here.

Changed from the suite:
- `test_init_arguments_not_in_processor_kwargs`: `num_frames` is saved with the processor and may be passed to a call.
  In the library it belongs to a video processor, which cannot be constructed without torchvision; here the processor
  itself has it.
- `test_processor_with_multiple_inputs`: the suite finds videos by the attribute `video_processor`, so it passes only a
  picture for a text with both placeholders; run here with both.
- `test_subprocessor_defaults` for pictures: ours are media (B, M, F, 3, H, W), but the suite compares with
  (B, 3, H, W); run here on the pixels.
"""

import sys
import tempfile
import types
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cosmo import CosmoProcessor
from tests.library.suite import suite_module
from tests.tiny_model import make_image_processor, make_tokenizer


FOLDER = tempfile.TemporaryDirectory()


def tearDownModule():
    FOLDER.cleanup()


def url_to_local_path(url: str, *_: Any) -> str:
    """Replace a picture of the Hub; the suite asks for other files too, but its tests of CosMo do not read them."""
    path = Path(FOLDER.name) / url.rpartition("/")[2]
    if path.suffix in (".png", ".jpg") and not path.is_file():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return str(path)


hub_objects = types.ModuleType("fetch_hub_objects_for_ci")  # in the library's repository, not in its distribution
hub_objects.__dict__["url_to_local_path"] = url_to_local_path
sys.modules.setdefault(hub_objects.__name__, hub_objects)

processing: Any = suite_module("test_processing_common")

pytestmark = [
    pytest.mark.library,
    pytest.mark.filterwarnings("default"),  # written for a project in which warnings are not errors
]


ProcessorTesterMixin: Any = processing.ProcessorTesterMixin


class CosmoProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = CosmoProcessor

    @classmethod
    def _setup_from_components(cls):
        return CosmoProcessor.from_towers(make_image_processor(), make_tokenizer())

    def test_init_arguments_not_in_processor_kwargs(self):
        self.skipTest("num_frames is saved and may be given with a call; see the top of this file")

    def test_processor_with_multiple_inputs(self):
        processor = self.get_processor()
        text = self.prepare_text_inputs(modalities=["image", "video"])
        inputs = processor(text=text, images=self.prepare_images_inputs(), videos=self.prepare_videos_inputs())
        assert set(inputs) == set(processor.model_input_names)
        with pytest.raises(ValueError, match="give text, images or videos"):
            processor()

    def test_subprocessor_defaults_1_images(self):
        processor, picture = self.get_processor(), self.prepare_images_inputs()
        alone = self.get_component("image_processor")(picture, return_tensors="pt")["pixel_values"]
        assert torch.equal(processor(images=picture)["pixel_values"][:, 0, 0], alone)
