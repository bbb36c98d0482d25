import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPModel, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from dataset_builder.errors import DamagedInput
from dataset_builder.models.embed import TowerEmbedder, fit_of, load_embeddings
from dataset_builder.video.frames import FrameSampler
from tests.dataset_builder.make_videos import encode, story


def smooth_picture(height: int, width: int) -> np.ndarray:
    """Colours that change slowly, as most of a photograph: `(H, W, 3)`."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / 17 + k) * np.cos(y / 13 - k) for k in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def test_embeddings_equal_the_towers_own_processor_and_model(tower_dir):
    frames = np.stack([smooth_picture(32, 32), smooth_picture(32, 32)[::-1], np.zeros((32, 32, 3), dtype=np.uint8)])
    inputs = AutoImageProcessor.from_pretrained(tower_dir, backend="pil")(list(frames), return_tensors="pt")
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(tower_dir).eval().get_image_features(**inputs).pooler_output
    # The same float32 arithmetic but for the order of scale and normalisation.
    np.testing.assert_allclose(TowerEmbedder(str(tower_dir))(frames), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 80), (90, 40), (32, 32), (121, 77)])
def test_frames_come_in_the_size_and_nearly_the_pixels_of_the_towers_processor(tower_dir, tmp_path, size):
    pixels = smooth_picture(size[0] // 2 * 2, size[1] // 2 * 2)  # H.264 wants even sides
    path = encode(tmp_path / "a.mp4", np.stack([pixels] * 3), crf="1")
    embedder = TowerEmbedder(str(tower_dir))
    (frames,) = FrameSampler(path, 1.0, embedder.fit, batch=8)
    processor = AutoImageProcessor.from_pretrained(tower_dir, backend="pil")
    expected = processor(Image.fromarray(pixels), return_tensors="pt", do_normalize=False, do_rescale=False)
    # Lossy coding with halved colours, and another resizer: a few grey levels of 255 on average.
    found = frames[0].transpose(2, 0, 1).astype(int)
    assert np.abs(found - expected["pixel_values"][0].numpy()).mean() < 4


def test_vision_only_towers_and_siglip_are_towers_too(tower_dir, tmp_path):
    CLIPVisionModel.from_pretrained(tower_dir).save_pretrained(tmp_path / "clip")
    CLIPImageProcessorPil.from_pretrained(tower_dir).save_pretrained(tmp_path / "clip")
    small = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    SiglipVisionModel(small).save_pretrained(tmp_path / "siglip")
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "siglip")
    path = encode(tmp_path / "a.mp4", story(0))
    for name in ("clip", "siglip"):
        embedder = TowerEmbedder(str(tmp_path / name))
        (frames,) = FrameSampler(path, 2.0, embedder.fit, batch=64)
        assert frames.shape == (12, 32, 32, 3)
        assert embedder(frames).shape == (12, 16)


def test_provenance_names_the_weights_and_no_path(tower_dir):
    facts = TowerEmbedder(str(tower_dir)).provenance()
    assert facts["tower"] == tower_dir.name
    assert len(facts["weights"]) == 16
    assert str(tower_dir.parent) not in str(facts)


def test_what_is_no_tower_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no model .*gone has no config\.json"):
        TowerEmbedder("gone")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot load the tower") as refusal:
        TowerEmbedder(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_torn_weights_are_refused_in_one_line(tower_dir, tmp_path):
    shutil.copytree(tower_dir, tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot load the tower") as refusal:
        TowerEmbedder(str(tmp_path / "torn"))
    assert "\n" not in str(refusal.value)


def test_a_processor_without_a_fixed_size_is_refused():
    with pytest.raises(ValueError, match="expected one fixed frame size"):
        fit_of(CLIPImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False))


def test_embeddings_from_files(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((7, 3)))
    assert load_embeddings(str(tmp_path), "a", 7).shape == (7, 3)
    with pytest.raises(DamagedInput, match=r"shape \(7, 3\); expected \(8, D\)"):
        load_embeddings(str(tmp_path), "a", 8)
    with pytest.raises(DamagedInput, match=r"no embeddings b\.npy"):
        load_embeddings(str(tmp_path), "b", 8)
    np.save(tmp_path / "c.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "zip", np.ones((1, 3)))
    (tmp_path / "zip.npz").rename(tmp_path / "d.npy")
    (tmp_path / "e.npy").touch()
    with (tmp_path / "f.npy").open("wb") as file:  # a header that promises 2 TB
        header = {"descr": "<f8", "fortran_order": False, "shape": (1, 10**12 // 4)}
        np.lib.format.write_array_header_1_0(file, header)
    for name in "cdef":
        with pytest.raises(DamagedInput, match="not a plain array"):
            load_embeddings(str(tmp_path), name, 1)
    for values in ([["a"]], [[1j]], [[float("nan")]]):
        np.save(tmp_path / "g.npy", np.array(values))
        with pytest.raises(DamagedInput, match=r"g\.npy are not finite numbers"):
            load_embeddings(str(tmp_path), "g", 1)
