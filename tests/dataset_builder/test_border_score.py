from itertools import permutations

import numpy as np
import pytest

from dataset_builder.border_score import border_f1, count_matches


def matches_by_trying_all(predicted, truth, tolerance):
    """Every way to pair the shorter list with places of the longer one."""
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


def test_f1_of_known_cases():
    assert border_f1([], [], 0.5) == 1.0
    assert border_f1([1.0], [], 0.5) == 0.0
    assert border_f1([2.0, 4.6, 9.0], [2.5, 4.0], 0.5) == pytest.approx(0.4)  # 1 of 3 found, 1 of 2 true: 2 * 1 / 5
    assert border_f1([2.0, 2.1], [2.0], 0.5) == pytest.approx(2 / 3)  # no border counts twice
