"""Samples drawn from real records: their clips, frames and captions."""

import json

import numpy as np
import pytest

from training.config import config_from_dict
from training.data.clips import corpus_digest, decode_in_order, load_clips
from training.data.samples import build_sources


BATCH = 17


@pytest.fixture(scope="module")
def table(corpus):
    return load_clips(corpus, "train")


@pytest.fixture
def sources(table, settings):
    return build_sources(table, config_from_dict(settings | {"frame_choices": 2, "clips_per_document": 3}))


def steps_of(corpus, table, record):
    return json.loads((corpus.parent / "videos" / "train" / f"{record.video_id}.json").read_text())["steps"]


def test_table_holds_the_kept_clips_in_order(corpus, table):
    for record, document in zip(table.records, table.documents, strict=True):
        expected = [step["caption"] for number, step in enumerate(steps_of(corpus, table, record)) if number != 1]
        assert [table.captions[clip] for clip in document] == expected
    assert table.num_clips == sum(len(document) for document in table.documents)


def test_frames_come_in_clip_order(table):
    frames = [clip for group in decode_in_order(table, 2, num_workers=2) for clip in group]
    assert len(frames) == table.num_clips
    for clip in (0, 5, table.num_clips - 1):
        assert np.array_equal(frames[clip], table.decode([clip], 2)[0])


@pytest.mark.parametrize("name", ["frame_text", "clip_text"])
def test_pairs_show_every_clip_once_per_epoch_with_its_caption(name, table, sources):
    samples = sources[name].draw(0, table.num_clips)
    assert sorted(samples.clips[:, 0]) == list(range(table.num_clips))
    assert samples.captions == [[table.captions[clip]] for clip in samples.clips[:, 0]]
    assert samples.contrastive


def test_frames_of_a_pair(sources):
    assert sources["frame_text"].draw(0, BATCH).frames.shape == (BATCH, 1, 1)
    assert set(sources["frame_text"].draw(0, 200).frames.ravel()) == set(range(6))
    frames = sources["clip_text"].draw(0, BATCH).frames
    assert frames.shape == (BATCH, 1, 3)
    assert np.array_equal(frames // 2, np.broadcast_to([0, 1, 2], frames.shape)), "one frame of each third, in order"
    assert set((frames % 2).ravel()) == {0, 1}


def test_documents_are_neighbours_from_any_start(table, sources):
    starts, lengths = set(), set()
    for number in range(40):
        samples = sources["interleaved"].draw(number * BATCH, BATCH)
        assert not samples.contrastive
        for row, captions in zip(samples.clips, samples.captions, strict=True):
            clips = row[row >= 0]
            document = next(document for document in table.documents if clips[0] in document)
            start = document.tolist().index(clips[0])
            assert document[start : start + len(clips)].tolist() == clips.tolist()
            assert len(clips) == min(len(row), len(document))
            assert captions == [table.captions[clip] for clip in clips]
            starts.add(start)
            lengths.add(len(clips))
    assert lengths == {2, 3}
    assert starts >= {0, 1}


def test_samples_depend_on_seed_and_position_alone(table, settings):
    draw = lambda seed, start: build_sources(table, config_from_dict(settings | {"seed": seed}))["interleaved"].draw(
        start, BATCH
    )
    assert np.array_equal(draw(1, 34).clips, draw(1, 34).clips)
    assert not np.array_equal(draw(1, 34).frames, draw(1, 51).frames) or draw(1, 34).captions != draw(1, 51).captions
    assert draw(1, 34).captions != draw(2, 34).captions


def test_sources_without_weight_or_clips(table, settings, corpus):
    config = config_from_dict(settings | {"frame_text_weight": 0})
    assert list(build_sources(table, config)) == ["clip_text", "interleaved"]
    with pytest.raises(ValueError, match="holds no shards of the split 'test'"):
        load_clips(corpus, "test")
    lonely = load_clips(corpus, "train")
    lonely.documents = [document[:1] for document in lonely.documents]
    with pytest.raises(ValueError, match="no samples for interleaved: set interleaved_weight=0"):
        build_sources(lonely, config)


def test_digest_names_the_content(corpus):
    assert corpus_digest(corpus, "train") == corpus_digest(str(corpus), "train") != corpus_digest(corpus, "validation")
