"""Batches as the model receives them: text, labels, masks, and features instead of pixels."""

import threading

import numpy as np
import pytest
import torch
from transformers import set_seed

from training.config import config_from_dict
from training.data import features
from training.data.clips import decode_in_order as decode_groups
from training.data.clips import load_clips
from training.data.collate import Collator, to_device
from training.data.features import CachedFeatures, DecodedPixels, features_path, write_features
from training.data.samples import Samples, build_sources
from training.setup import build_model


@pytest.fixture(scope="module")
def table(corpus):
    return load_clips(corpus, "train")


@pytest.fixture
def built(settings):
    set_seed(0)
    config = config_from_dict(settings)
    return config, *build_model(config)


def samples_of(table, rows, num_media=2, num_frames=3):
    """Samples of the given clips, all frames."""
    clips = np.full((len(rows), num_media), -1)
    for index, row in enumerate(rows):
        clips[index, : len(row)] = row
    frames = np.broadcast_to(np.arange(num_frames), (*clips.shape, num_frames))
    captions = [[table.captions[clip] for clip in row] for row in rows]
    return Samples(captions=captions, clips=clips, frames=frames, contrastive=False)


def test_labels_and_masks(built, table):
    _, _, processor = built
    batch = Collator(processor, DecodedPixels(table, processor, 3), 256)(samples_of(table, [[0, 1], [2]]))
    visual, end = (processor.tokenizer.convert_tokens_to_ids(token) for token in ("<visual>", "<|endofchunk|>"))
    for row, captions in enumerate([[table.captions[0], table.captions[1]], [table.captions[2]]]):
        ids, labels = batch["input_ids"][row], batch["labels"][row]
        length = int(batch["attention_mask"][row].sum())
        expected = [processor.tokenizer.bos_token_id]
        counted = []
        for caption in captions:
            words = processor.tokenizer(caption, add_special_tokens=False)["input_ids"]
            expected += [visual, *words, end]
            counted += [*words, end]
        assert ids[:length].tolist() == expected
        assert labels[labels != -100].tolist() == counted, "placeholders, bos and padding do not count"
        assert (labels[ids == visual] == -100).all()
        assert labels[0] == -100
        assert (labels[length:] == -100).all()
    assert batch["media_mask"].tolist() == [[[True] * 3, [True] * 3], [[True] * 3, [False] * 3]]
    assert batch["pixel_values"].shape == (2, 2, 3, 3, 32, 32)


def test_media_whose_placeholder_is_cut_off_are_masked(built, table):
    _, _, processor = built
    first = len(processor.tokenizer(processor.interleave([table.captions[0]]))["input_ids"])
    batch = Collator(processor, DecodedPixels(table, processor, 3), first)(samples_of(table, [[0, 1]]))
    assert batch["input_ids"].shape == (1, first)
    assert batch["media_mask"].tolist() == [[[True] * 3, [False] * 3]]


@pytest.mark.parametrize("frame_choices", [1, 2])
def test_training_on_cached_features_equals_training_on_pixels(built, table, settings, tmp_path, frame_choices):
    _, model, processor = built
    config = config_from_dict(settings | {"frame_choices": frame_choices})
    path = features_path(table, model, processor, config, tmp_path)
    write_features(path, table, model, processor, config)
    assert [item.name for item in tmp_path.iterdir()] == [path.name], "nothing is left besides the finished file"
    model.train()
    for name, source in build_sources(table, config).items():
        samples = source.draw(5, 7)
        results = []
        for visual_inputs in (CachedFeatures(path), DecodedPixels(table, processor, 3 * frame_choices)):
            model.zero_grad()
            batch = to_device(Collator(processor, visual_inputs, 64)(samples), torch.device("cpu"))
            output = model(**batch, compute_contrastive=samples.contrastive)
            output.loss.backward()
            gradient = model.model.resampler.latents.grad
            results.append((output.loss.item(), gradient.clone()))
        (cached, cached_gradient), (pixels, pixel_gradient) = results
        # Features are stored in float16: 11 bits, 5e-4 relative per number, averaged over many.
        assert cached == pytest.approx(pixels, rel=1e-3), name
        assert torch.allclose(cached_gradient, pixel_gradient, rtol=1e-2, atol=1e-3 * pixel_gradient.abs().max())


def test_features_belong_to_tower_corpus_and_frames(built, table, settings, tmp_path):
    _, model, processor = built
    name = lambda **changes: (
        features_path(table, model, processor, config_from_dict(settings | changes), tmp_path).name
    )
    before = name()
    assert before == name(learning_rate=0.5), "settings of the training do not matter"
    assert before != name(frame_choices=2)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = build_model(config_from_dict({"corpus": "any", "num_frames": 3, "model": str(tmp_path / "model")}))
    config = config_from_dict(settings)
    assert before == features_path(table, *loaded, config, tmp_path).name, "the same tower inside a saved model"
    with torch.no_grad():
        next(model.model.vision_tower.parameters())[0] += 1
    assert before != name()


def test_two_runs_that_share_features_write_them_once(table, built, tmp_path, monkeypatch):
    """The second starts while the first is writing; it must neither empty the first one's file nor miss it."""
    config, model, processor = built
    path, decoded, errors = tmp_path / "features.npy", [], []

    def write():
        try:
            write_features(path, table, model, processor, config)
        except OSError as error:
            errors.append(error)

    second = threading.Thread(target=write)

    def decode_in_order(*words):
        decoded.append(words)
        yield from decode_groups(*words)
        if len(decoded) == 1:
            second.start()

    monkeypatch.setattr(features, "decode_in_order", decode_in_order)
    write()
    second.join()
    assert len(decoded) == 1
    assert not errors
    assert len(CachedFeatures(path).features) == table.num_clips
