"""Metrics as `evaluate.Metric` classes; nothing is downloaded. Scores are multiplied by 100 only when printed."""

import datasets
import evaluate  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from training.evaluation.cider import cider_d
from training.evaluation.vqa import vqa_accuracy


TEXT = datasets.Value("string")
RECALL_RANKS = (1, 5, 10)


class _InMemoryMetric(evaluate.Metric):
    """Metric that keeps its inputs in memory, so that it leaves no lock or cache file."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"keep_in_memory": options.get("num_process", 1) == 1} | options)


class Cider(_InMemoryMetric):
    """Mean CIDEr-D of captions: `{"cider": 0 to 10}`; see `training.evaluation.cider`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="CIDEr-D, mean over the samples, from 0 to 10.",
            citation="arXiv:1411.5726",
            inputs_description="predictions: one caption per sample; references: its human captions.",
            features=datasets.Features({"predictions": TEXT, "references": datasets.List(TEXT)}),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"cider": float(np.mean(cider_d(predictions, references)))}


class VqaAccuracy(_InMemoryMetric):
    """Mean VQA accuracy: `{"vqa_accuracy": 0 to 1}`; see `training.evaluation.vqa`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="VQA accuracy over the annotators' answers, mean over the questions, from 0 to 1.",
            citation="arXiv:1505.00468",
            inputs_description="predictions: one answer per question; references: the annotators' answers to it.",
            features=datasets.Features({"predictions": TEXT, "references": datasets.List(TEXT)}),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        scores = [vqa_accuracy(said, answers) for said, answers in zip(predictions, references, strict=True)]
        return {"vqa_accuracy": float(np.mean(scores))}


class RetrievalRecall(_InMemoryMetric):
    """Share of queries with a right item among the first 1, 5 and 10: `{"r1": ..., "r5": ..., "r10": ...}`.

    A tie counts against the query: items with the same score as the right one rank before it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Recall at 1, 5 and 10, share of the queries from 0 to 1.",
            citation="",
            inputs_description="predictions: per query a score for each item; references: the right items' indices.",
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[list[int]]) -> dict[str, float]:
        ranks = np.array([_rank_of_right_item(*pair) for pair in zip(predictions, references, strict=True)])
        return {f"r{limit}": float(np.mean(ranks < limit)) for limit in RECALL_RANKS}


def _rank_of_right_item(scores: list[float], right: list[int]) -> int:
    """Count the wrong items that score at least as high as the best right one; 0 means first."""
    if not right:
        raise ValueError("a query has no right item: every list in references needs at least one index")
    items = np.asarray(scores)
    wrong = np.ones(len(items), dtype=bool)
    wrong[right] = False
    return int((items[wrong] >= items[right].max()).sum())
