"""Captioning and retrieval, which quickstart and evaluation share, compared with direct calls of the model."""

import numpy as np
import pytest
import torch
from transformers import set_seed

from training.config import config_from_dict
from training.data.clips import load_clips
from training.data.features import encode, pixels_of
from training.evaluation.captioning import caption_clips
from training.evaluation.retrieval import recall_both_ways, retrieval_scores, text_video_similarity
from training.setup import build_model


NUM_CLIPS = 7


@pytest.fixture(scope="module")
def built(settings):
    """Model and processor with gates half open, so that pictures matter."""
    set_seed(0)
    model, processor = build_model(config_from_dict(settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name:
                parameter.fill_(0.7)
    return model, processor


@pytest.fixture(scope="module")
def clips(corpus):
    table = load_clips(corpus, "train")
    return [table.decode([clip], 3)[0] for clip in range(NUM_CLIPS)], table.captions[:NUM_CLIPS]


def test_captions_are_what_generate_writes_about_each_clip(built, clips):
    model, processor = built
    frames, _ = clips
    captions = caption_clips(model, processor, frames, prompt="a red", max_new_tokens=5, batch_size=3)
    assert len(captions) == NUM_CLIPS
    for clip, caption in zip(frames, captions, strict=True):
        inputs = processor(text=["<visual>a red"], videos=[[clip]])
        written = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        new = written[0, inputs["input_ids"].shape[1] :].tolist()
        ends = [new.index(end) for end in {model.config.end_of_chunk_token_id, model.config.eos_token_id} & {*new}]
        expected = processor.tokenizer.decode(new[: min(ends, default=5)], skip_special_tokens=True)
        assert caption == expected.strip()


def test_features_and_frames_give_the_same_captions(built, clips):
    model, processor = built
    frames, _ = clips
    encoded = encode(model, torch.cat([pixels_of(processor, clip) for clip in frames]))
    features = encoded.reshape(NUM_CLIPS, 3, *encoded.shape[1:])
    expected = caption_clips(model, processor, frames, max_new_tokens=6)
    assert caption_clips(model, processor, features, max_new_tokens=6) == expected
    assert caption_clips(model, processor, features.numpy(), max_new_tokens=6, batch_size=2) == expected
    with pytest.raises(ValueError, match=r"clips have \[2, 3\] frames"):
        caption_clips(model, processor, [frames[0], frames[1][:2]])


def test_similarity_is_that_of_the_training_forward(built, clips):
    model, processor = built
    frames, captions = clips
    similarity = text_video_similarity(model, processor, frames, captions, batch_size=3)
    inputs = processor(
        text=[processor.interleave([caption]) for caption in captions],
        videos=[[clip] for clip in frames],
        padding_side="right",
    )
    with torch.no_grad():
        output = model.eval()(**inputs)
    expected = output.text_embeds @ output.vision_embeds.T
    # Cached features pass through float16: 5e-4 relative; cosines are at most 1.
    assert np.allclose(similarity, expected.numpy(), atol=2e-3)
    assert similarity.shape == (NUM_CLIPS, NUM_CLIPS)
    scores = retrieval_scores(model, processor, frames, captions)
    assert scores == recall_both_ways(similarity)


def test_recall_counts_rows_for_texts_and_columns_for_videos():
    similarity = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.3], [0.95, 0.4, 0.5]], dtype=np.float32)
    assert recall_both_ways(similarity) == {
        "text_to_video_r1": pytest.approx(2 / 3),
        "video_to_text_r1": pytest.approx(1 / 3),
        "num": 3,
    }
