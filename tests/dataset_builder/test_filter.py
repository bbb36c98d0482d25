import numpy as np
import pytest

from dataset_builder.corpus.statistics import count_reasons
from dataset_builder.recipe import FilterSettings
from dataset_builder.schema import Clip
from dataset_builder.stages.filter import drop_all, filter_clips, measure_frame_levels


SETTINGS = FilterSettings(min_clip_s=1.0, min_caption_words=3, black_below=8.0, static_below=0.5)


def judge(clips, brightness=100.0, change=3.0, settings=SETTINGS):
    num_frames = int(clips[-1].end_s * 4)
    changes = np.full(num_frames, change)
    levels = measure_frame_levels(
        np.full(num_frames, brightness), changes, [(clip.start_s, clip.end_s) for clip in clips], frame_rate_hz=4.0
    )
    return filter_clips(clips, levels, settings)


def clip(start_s, end_s, caption):
    return Clip(start_s=start_s, end_s=end_s, caption=caption)


@pytest.mark.parametrize(
    ("one", "brightness", "change", "reason"),
    [
        (clip(0, 2, "a red star"), 100.0, 3.0, ""),
        (clip(0, 0.5, "a red star"), 100.0, 3.0, "clip shorter than 1 s"),
        (clip(0, 2, ""), 100.0, 3.0, "empty caption"),
        (clip(0, 2, "a star"), 100.0, 3.0, "caption shorter than 3 words"),
        (clip(0, 2, "a red star"), 2.0, 3.0, "black clip"),
        (clip(0, 2, "a red star"), 100.0, 0.0, "static clip"),
    ],
)
def test_each_filter_gives_its_reason(one, brightness, change, reason):
    (judged,) = judge([one], brightness, change)
    assert (judged.keep, judged.drop_reason) == (not reason, reason)
    assert judged.caption == one.caption


def test_a_repeated_caption_is_dropped_but_not_one_whose_first_was():
    said = judge([clip(0, 2, "a red star"), clip(2, 4, "a red star"), clip(4, 6, "a blue ring")])
    assert [item.keep for item in said] == [True, False, True]
    first_too_short = judge([clip(0, 0.5, "a red star"), clip(0.5, 4, "a red star")])
    assert [item.keep for item in first_too_short] == [False, True]


def test_filters_that_are_off_keep_all():
    off = FilterSettings(min_caption_words=0, drop_repeated_captions=False)
    assert all(item.keep for item in judge([clip(0, 0.1, ""), clip(0.1, 1, "")], 0.0, 0.0, off))


def test_looks_are_taken_from_the_clips_own_frames():
    brightness, changes = np.array([1.0, 2, 3, 50, 60]), np.array([0.0, 1, 0, 90, 2])
    levels = measure_frame_levels(brightness, changes, [(0.0, 1.5), (1.5, 2.4), (2.4, 2.5)], frame_rate_hz=2.0)
    # the jump from frame 2 to 3 is the border between two clips and moves in neither
    assert [(one.brightest, one.largest_change) for one in levels] == [(3.0, 1.0), (60.0, 2.0), (60.0, None)]


def test_reasons_are_counted_without_their_details():
    dropped = [*drop_all([clip(0, 1, "x"), clip(1, 2, "y")], "duplicate video: train/a"), clip(2, 3, "z")]
    assert count_reasons(dropped) == {"duplicate video": 2}
