from itertools import permutations

import numpy as np
import pytest

from training.evaluation.borders import count_matches


def matches_by_trying_all(predicted, truth, tolerance):
    """Try every way to pair the shorter list with elements of the longer one."""
    short, long = sorted((predicted, truth), key=len)
    return max(
        sum(abs(a - b) <= tolerance for a, b in zip(short, chosen, strict=True))
        for chosen in permutations(long, len(short))
    )


@pytest.mark.parametrize("seed", range(30))
def test_matches_are_the_most_possible(seed):
    draw = np.random.default_rng(seed)
    predicted, truth = draw.uniform(0, 5, size=draw.integers(0, 6)).tolist(), draw.uniform(0, 5, size=5).tolist()
    assert count_matches(predicted, truth, 0.5) == matches_by_trying_all(predicted, truth, 0.5)


def test_matches_of_known_cases():
    assert count_matches([], [], 0.5) == count_matches([1.0], [], 0.5) == 0
    assert count_matches([2.0, 4.6, 9.0], [2.5, 4.0], 0.5) == 1, "the tolerance itself is within it"
    assert count_matches([2.0, 2.1], [2.0], 0.5) == 1, "no border counts twice"
