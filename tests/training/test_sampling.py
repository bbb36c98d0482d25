"""Schedules and shuffles are functions of seed and position; these tests check them by counting."""

from collections import Counter

import numpy as np
import pytest

from training.data.sampling import EndlessShuffle, rows_of_rank, source_schedule


WEIGHTS = {"frame_text": 1.0, "never": 0.0, "clip_text": 3.0, "interleaved": 2.0}


@pytest.mark.parametrize("seed", range(5))
def test_every_stretch_of_the_schedule_holds_the_shares(seed):
    schedule = source_schedule(WEIGHTS, seed, 997)
    for start in (0, 311, 800):
        counts = Counter(schedule[start : start + 120])
        for name, weight in WEIGHTS.items():
            # The golden-ratio sequence deviates from a share by a few batches at most; random draws would by ~10.
            assert abs(counts[name] - 120 * weight / 6) <= 3
    assert schedule[:500] == source_schedule(WEIGHTS, seed, 500), "a longer run begins like a shorter one"


def test_seeds_change_the_schedule():
    assert source_schedule(WEIGHTS, 1, 50) != source_schedule(WEIGHTS, 2, 50)


def test_shuffle_shows_every_item_once_per_epoch_wherever_it_is_cut():
    whole = EndlessShuffle(13, 5, 1).take(0, 39)
    for epoch in range(3):
        assert sorted(whole[epoch * 13 : (epoch + 1) * 13]) == list(range(13))
    assert not np.array_equal(whole[:13], whole[13:26])
    cut = EndlessShuffle(13, 5, 1)
    pieces = [cut.take(start, 3) for start in range(0, 39, 3)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(EndlessShuffle(13, 5, 1).take(20, 7), whole[20:27]), "no need to read what came before"
    assert not np.array_equal(EndlessShuffle(13, 6, 1).take(0, 13), whole[:13])


def test_ranks_split_the_global_batch():
    rows = np.arange(21)
    assert np.array_equal(np.concatenate([rows[rows_of_rank(7, rank)] for rank in range(3)]), rows)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="empty"):
        EndlessShuffle(0, 1)
