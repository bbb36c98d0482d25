import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer, CLIPModel

from dataset_builder.toy.clip_tower import draw_pool, to_pixels, zero_shot_scores
from dataset_builder.toy.text_tower import text_scores
from dataset_builder.toy.train_towers import SHIPPED, TowerSettings, train_towers
from dataset_builder.toy.world import HELD_OUT, SEEN


TINY = TowerSettings(clip_steps=20, clip_batch_size=8, clip_scenes=32, opt_steps=4, opt_batch_size=4, eval_scenes=32)


@pytest.fixture(scope="module")
def shipped():
    clip = CLIPModel.from_pretrained(SHIPPED / "clip", dtype=torch.float32)
    opt = AutoModelForCausalLM.from_pretrained(SHIPPED / "opt", dtype=torch.float32)
    return clip, opt, AutoTokenizer.from_pretrained(SHIPPED / "opt")


def test_shipped_tower_tells_shape_and_colour_of_held_out_frames(shipped):
    """On other frames than in the card: another seed."""
    clip, _, tokenizer = shipped
    scores = zero_shot_scores(clip, tokenizer, seed=1, num_scenes=96, device="cpu")
    assert scores["num_frames"] == 576
    assert scores["shape_and_colour"] >= 0.95


def test_shipped_language_model_has_no_prior_against_held_out_captions(shipped):
    _, opt, tokenizer = shipped
    assert text_scores(opt, tokenizer, "cpu")["ratio"] < 1.2  # 58 of 67 actions are as likely as any other


def test_shipped_towers_are_small_and_half_precision():
    files = sorted(SHIPPED.glob("*/*.safetensors"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 6e6
    for file in files:
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_card_tells_the_measured_scores():
    card = (SHIPPED / "README.md").read_text()
    clip = json.loads((SHIPPED / "clip/scores.json").read_text())
    assert f"| {clip['scores']['shape_and_colour']:.4f} |" in card
    assert clip["settings"] == json.loads((SHIPPED / "opt/scores.json").read_text())["settings"]
    assert TowerSettings(**clip["settings"]) == TowerSettings(), "the shipped towers are those of the defaults"


def test_image_processor_makes_the_pixels_that_the_tower_learned_from():
    pool = draw_pool(32, sorted(HELD_OUT), np.random.default_rng(0))
    processor = AutoImageProcessor.from_pretrained(SHIPPED / "clip")
    found = processor(list(pool.frames[:5]), return_tensors="pt")["pixel_values"]
    # The image processor rescales by 1/255 in float32, in another order.
    assert torch.allclose(found, to_pixels(pool.frames[:5]), atol=1e-5)


def test_frames_show_the_scenes_asked_for():
    rng = np.random.default_rng(2)
    pool = draw_pool(32, list(SEEN), rng)
    assert pool.frames.shape == (192, 64, 64, 3)
    assert len(pool.scenes) == 192
    assert all((s.shape, s.colour, s.action) in set(SEEN) for s in pool.scenes)


def test_a_schedule_needs_room():
    with pytest.raises(ValueError, match="opt_steps is 3, expected at least 4"):
        TowerSettings(opt_steps=3)


def test_towers_are_trained_whole_kept_and_never_mixed(tmp_path):
    scores = train_towers(tmp_path, TINY)
    assert scores["clip"]["num_frames"] == 192
    kept = (tmp_path / "clip/model.safetensors").stat().st_mtime_ns
    (tmp_path / "opt/scores.json").unlink()  # as after a kill while this tower was being written
    again = train_towers(tmp_path, TINY)
    assert (tmp_path / "clip/model.safetensors").stat().st_mtime_ns == kept
    assert again["opt"]["nats_per_seen_caption"] == pytest.approx(scores["opt"]["nats_per_seen_caption"], rel=1e-5)
    with pytest.raises(ValueError, match="holds a tower with other settings"):
        train_towers(tmp_path, TowerSettings(seed=1))
