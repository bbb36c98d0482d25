"""How well found borders agree with true ones."""

from collections.abc import Sequence


def count_matches(predicted: Sequence[float], truth: Sequence[float], tolerance_s: float) -> int:
    """The most pairs of a found and a true border within the tolerance, no border used twice.

    On a line, pairing both lists in order and skipping whichever border lies too far back gives the most pairs.
    """
    found, true = sorted(predicted), sorted(truth)
    found_index = true_index = matches = 0
    while found_index < len(found) and true_index < len(true):
        gap_s = found[found_index] - true[true_index]
        if abs(gap_s) <= tolerance_s + 1e-9:
            matches, found_index, true_index = matches + 1, found_index + 1, true_index + 1
        elif gap_s > 0:
            true_index += 1
        else:
            found_index += 1
    return matches
