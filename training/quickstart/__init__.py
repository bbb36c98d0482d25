"""In comes the name of a quickstart; out go narrated videos, a corpus, a trained model, its scores and a report."""

from training.quickstart.run import describe, run_quickstart


__all__ = ["describe", "run_quickstart"]
