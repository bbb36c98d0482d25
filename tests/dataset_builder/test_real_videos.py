"""Real files: several codecs and containers, with and without subtitles, no ground truth."""

import numpy as np
import pytest
from datasets import load_dataset

from dataset_builder import build_corpus, decode_clip, load_recipe, read_corpus
from dataset_builder.inputs import find_videos
from dataset_builder.video.container import RgbConverter, decode_forward, open_video
from dataset_builder.video.decode import frames_at


@pytest.mark.slow
def test_a_whole_folder_of_real_videos_builds_and_streams(samples_dir, tower_dir, tmp_path):
    recipe = load_recipe("laptop", {"segment.tower": str(tower_dir), "filter.min_caption_words": 0})
    videos = samples_dir / "videos"
    summary = build_corpus(videos, tmp_path, recipe, workers=1, progress=False)
    assert not summary.quarantined
    expected = {source.video_id for source in find_videos(videos)}
    rows = list(load_dataset(str(tmp_path), split="train", streaming=True))
    assert {row["video_id"] for row in rows} == expected
    assert len(expected) > 20
    for row in rows:
        assert row["clips"][0]["start_s"] == 0
        assert row["clips"][-1]["end_s"] == row["duration_s"]
        frames = decode_clip(row, len(row["clips"]) - 1, 3, root=tmp_path)
        facts = row["provenance"]["probe"]
        assert frames.shape == (3, 3, facts["height_px"], facts["width_px"])
    assert len({row["provenance"]["probe"]["codec"] for row in rows}) > 2
    assert {record.video_id for record in read_corpus(tmp_path, "train")} == expected


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_by_time_equal_decoding_everything(samples_dir, suffix):
    paths = [source.path for source in find_videos(samples_dir / "videos") if source.path.suffix == suffix]
    small = sorted(paths, key=lambda path: path.stat().st_size)[:5]
    for path in small:
        convert, every = RgbConverter(), []
        with open_video(path) as (container, stream):
            for timed in decode_forward(stream, container):
                every.append((timed.start_s, convert(timed.frame)))
        starts = np.array([start_s for start_s, _ in every])
        for time_s in [*np.random.default_rng(0).uniform(0.0, starts[-1], size=5).tolist(), starts[-1] * 0.95]:
            shown = every[int(np.searchsorted(starts, time_s + 1e-6, side="right")) - 1][1]
            np.testing.assert_array_equal(frames_at(path, [time_s])[0], shown)
