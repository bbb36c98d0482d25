"""How well found borders agree with true ones."""

from collections.abc import Sequence


def border_f1(predicted: Sequence[float], truth: Sequence[float], tolerance_s: float) -> float:
    """Harmonic mean of precision and recall of borders, each matched with at most one within the tolerance.

    Args:
        predicted: found borders in seconds, without the video's begin and end.
        truth: true borders in seconds.
        tolerance_s: how far a found border may lie from a true one.

    Returns:
        Share from 0 to 1; 1 where there is nothing to find and nothing was found.
    """
    if not predicted and not truth:
        return 1.0
    return 2 * count_matches(predicted, truth, tolerance_s) / (len(predicted) + len(truth))


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
