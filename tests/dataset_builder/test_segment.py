"""Compare KTS with its plain definition: loops over every segment and every border, in Python."""

import math
import time
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from dataset_builder.compare.kts import BLOCK, best_scatters, borders_of, kts, scatters
from dataset_builder.stages.segment import WINDOW, SegmentSettings, segment_video


def scatter_by_definition(embeddings, start, end):
    """Sum of squared distances to the mean of the unit vectors of frames start..end-1."""
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in embeddings[start:end].tolist()]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return sum((x - m) ** 2 for row in rows for x, m in zip(row, mean, strict=True))


def best_by_triple_loop(embeddings, num_segments, shortest, longest):
    """The dynamic programme written out: segments, ends, starts."""
    num_frames = len(embeddings)
    cost = {
        (a, b): scatter_by_definition(embeddings, a, b)
        for a in range(num_frames)
        for b in range(a + 1, num_frames + 1)
    }
    best = [0.0] + [math.inf] * num_frames
    totals = []
    for _ in range(num_segments):
        new = [math.inf] * (num_frames + 1)
        for end in range(1, num_frames + 1):
            for start in range(end):
                if shortest <= end - start <= longest:
                    new[end] = min(new[end], best[start] + cost[start, end])
        best = new
        totals.append(best[num_frames])
    return totals


@pytest.mark.parametrize(("seed", "shortest", "longest"), [(0, 1, 23), (1, 1, 23), (2, 3, 11), (3, 2, 7), (4, 5, 23)])
def test_objective_equals_the_triple_loop(seed, shortest, longest):
    embeddings = np.random.default_rng(seed).normal(size=(23, 5))
    costs, lengths = best_scatters(scatters(embeddings, longest), 7, shortest)
    expected = best_by_triple_loop(embeddings, 7, shortest, longest)
    # Prefix sums of 23 unit vectors cancel to about 1e-14; the scatters themselves are of order 1.
    np.testing.assert_allclose(costs, expected, rtol=1e-10)
    for count, cost in enumerate(costs, start=1):
        if math.isfinite(cost):  # and the borders walked back are those of that cost
            edges = [0, *borders_of(lengths, count), 23]
            assert len(edges) == count + 1
            found = sum(scatter_by_definition(embeddings, a, b) for a, b in pairwise(edges))
            assert found == pytest.approx(cost, rel=1e-10)


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0, 3.0])
def test_number_of_segments_minimises_the_penalised_cost(penalty):
    """Compare with all choices of borders, with Potapov's penalty typed again from the paper."""
    draw = np.random.default_rng(7)
    embeddings = np.repeat(draw.normal(size=(3, 5)), [4, 2, 5], axis=0) + 0.2 * draw.normal(size=(11, 5))
    scores = {}
    for count in range(1, 6):
        for borders in combinations(range(1, 11), count - 1):
            edges = [0, *borders, 11]
            scatter = sum(scatter_by_definition(embeddings, a, b) for a, b in pairwise(edges))
            scores[borders] = scatter / 11 + penalty * count / 22 * (math.log(11 / count) + 1)
    assert tuple(kts(embeddings, 5, penalty)) == min(scores, key=scores.__getitem__)


def test_clear_scenes_are_found_across_blocks_of_the_computation():
    draw = np.random.default_rng(3)
    lengths = [BLOCK - 3, 11, 101, 29]
    embeddings = np.repeat(draw.normal(size=(4, 13)), lengths, axis=0) + 0.05 * draw.normal(size=(sum(lengths), 13))
    assert kts(embeddings, 10, 1.0) == [BLOCK - 3, BLOCK + 8, BLOCK + 109]


def test_a_still_video_is_one_clip():
    assert kts(np.ones((31, 5)), 5, 1.0) == []
    assert kts(np.ones((1, 5)), 5, 1.0, min_frames=4) == []
    assert kts(np.zeros((7, 5)), 3, 1.0) == []  # no direction, and no division by zero


def test_600_frames_into_60_segments_take_less_than_half_a_second():
    embeddings = np.random.default_rng(0).normal(size=(600, 512))
    begin = time.thread_time()  # threads of the matrix library that wait for work spin on every core
    kts(embeddings, 60, 0.0)
    assert time.thread_time() - begin < 0.5


def settings(**changes: Any) -> SegmentSettings:
    values: dict[str, Any] = {"frame_rate_hz": 4.0, "frames_per_segment": 6.0, "penalty": 1.0, "tower": "x"}
    return SegmentSettings(**(values | changes))


def test_clips_cover_the_video_without_a_gap():
    embeddings = np.repeat(np.eye(3), [8, 9, 7], axis=0)
    assert segment_video(embeddings, 6.1, settings(penalty=0.1)) == [(0.0, 2.0), (2.0, 4.25), (4.25, 6.1)]


def test_limits_that_whole_frames_cannot_meet_give_way_by_a_frame():
    """At 1 frame/s, clips of 1.2 to 2.5 s are clips of 2 frames; 3 frames must still become clips."""
    limits = settings(penalty=0.0, frame_rate_hz=1.0, frames_per_segment=1.0, min_clip_s=1.2, max_clip_s=2.5)
    assert segment_video(np.eye(3), 3.0, limits) == [(0.0, 3.0)]
    assert [end - start for start, end in segment_video(np.eye(7), 7.0, limits)] in ([2, 2, 3], [2, 3, 2], [3, 2, 2])


@pytest.mark.parametrize("num_frames", [1, 2, 13, 97, WINDOW + 1, 2 * WINDOW + 301])
def test_shortest_and_longest_clip_are_kept(num_frames):
    embeddings = np.random.default_rng(num_frames).normal(size=(num_frames, 3))
    limits = settings(penalty=0.0, frame_rate_hz=2.0, frames_per_segment=3.0, min_clip_s=2.4, max_clip_s=5.5)
    clips = segment_video(embeddings, num_frames / 2, limits)
    assert clips[0][0] == 0
    assert clips[-1][1] == num_frames / 2
    assert all(before[1] == after[0] for before, after in pairwise(clips))
    if num_frames >= 5:  # a shorter video is one clip
        lengths = [end - start for start, end in clips]
        assert min(lengths) >= 2.4
        assert max(lengths) <= 5.5
    else:
        assert len(clips) == 1
