"""Small real videos and a tiny tower of a real class, made once per run."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.dataset_builder.make_videos import encode, story


@pytest.fixture(scope="session")
def tower_dir(tmp_path_factory) -> Path:
    """A CLIPModel with random weights and its picture processor."""
    folder = tmp_path_factory.mktemp("tower")
    part = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config=part | {"image_size": 32, "patch_size": 8},
        text_config=part | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_convert_rgb=False
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def narrated_dir(tmp_path_factory) -> Path:
    """Five narrated videos in split folders, with ground truth, in the layout of the toy world."""
    folder = tmp_path_factory.mktemp("narrated")
    for index, split in enumerate(["train", "train", "train", "validation", "test"]):
        name = folder / split / f"video {index}"
        encode(name.with_suffix(".mp4"), story(index))
        cues = [
            f"00:00:0{2 * step}.500 --> 00:00:0{2 * step + 1}.500\nsentence {step} of {index}" for step in range(3)
        ]
        name.with_suffix(".vtt").write_text("WEBVTT\n\n" + "\n\n".join(cues) + "\n")
        steps = [
            f'{{"start_s": {2 * step}, "end_s": {2 * step + 2}, "caption": "step {step} of {index}"}}'
            for step in range(3)
        ]
        name.with_suffix(".json").write_text(f'{{"video_id": "video {index}", "steps": [{", ".join(steps)}]}}')
    return folder
