"""Scores compared with published numbers and with a second, scalar implementation of their definitions."""

import csv
import math

import pytest

from training.evaluation.caption_tokenizer import tokenize_caption
from training.evaluation.cider import cider_d
from training.evaluation.metrics import Cider, RetrievalRecall, VqaAccuracy
from training.evaluation.vqa import normalize_answer, vqa_accuracy


def cider_by_definition(predictions, references):
    """Compute CIDEr-D with dense vectors over all n-grams, one order and one reference at a time."""
    ngrams = lambda text, n: [tuple(text.split()[i : i + n]) for i in range(len(text.split()) - n + 1)]
    scores = []
    for prediction, captions in zip(predictions, references, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            vocabulary = sorted({g for group in [*references, predictions] for text in group for g in ngrams(text, n)})
            documents = [sum(any(g in ngrams(t, n) for t in group) for group in references) for g in vocabulary]
            idf = [math.log(len(references) / max(1, count)) for count in documents]
            vector = lambda t, n=n, v=vocabulary, w=idf: [ngrams(t, n).count(g) * x for g, x in zip(v, w, strict=True)]
            for caption in captions:
                mine, theirs = vector(prediction), vector(caption)
                length = math.hypot(*mine) * math.hypot(*theirs)
                dot = sum(min(a, b) * b for a, b in zip(mine, theirs, strict=True))
                gap = len(prediction.split()) - len(caption.split())
                total += (dot / length if length else 0.0) * math.exp(-gap * gap / 72) / len(captions)
        scores.append(10 * total / 4)
    return scores


PREDICTIONS = ["a red star rolls left", "a blue ring rises rises", "the cube", "green moon falls behind the tree"]
REFERENCES = [
    ["a red star rolls left in front of bricks", "red star rolling"],
    ["a blue ring rises", "the ring rises up", "blue ring"],
    ["a cube blinks on sand"],
    ["a green moon falls", "the moon falls behind the tree", "it falls", "moon", "a moon behind the tree"],
]


def test_cider_matches_the_definition():
    expected = cider_by_definition(PREDICTIONS, REFERENCES)
    assert min(expected[:2]) > 0.5, "the example must exercise overlap"
    # Float64 sums in another order.
    assert cider_d(PREDICTIONS, REFERENCES) == pytest.approx(expected, abs=1e-12)
    mean = sum(expected) / len(expected)
    assert Cider().compute(predictions=PREDICTIONS, references=REFERENCES) == {"cider": pytest.approx(mean, abs=1e-12)}


def test_cider_matches_the_number_nlg_eval_publishes(samples_dir):
    folder = samples_dir / "text" / "nlg-eval"
    lines = lambda name: (folder / name).read_text().splitlines()
    references = [list(pair) for pair in zip(lines("ref1.txt"), lines("ref2.txt"), strict=True)]
    # Six digits are published (Maluuba/nlg-eval, README).
    assert Cider().compute(predictions=lines("hyp.txt"), references=references)["cider"] == pytest.approx(
        1.242192, abs=1e-6
    )


def test_cider_matches_the_definition_on_real_captions(samples_dir):
    with (samples_dir / "text" / "aac-metrics" / "example_1.csv").open() as file:
        rows = list(csv.DictReader(file))[:7]
    clean = lambda text: " ".join(tokenize_caption(text))
    predictions = [clean(row["caption_predicted"]) for row in rows]
    references = [[clean(row[f"caption_{index}"]) for index in range(1, 6)] for row in rows]
    assert cider_d(predictions, references) == pytest.approx(cider_by_definition(predictions, references), abs=1e-12)


def test_cider_names_what_is_missing():
    with pytest.raises(ValueError, match="2 predictions but references for 1"):
        cider_d(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="sample 1 has no reference"):
        cider_d(["a", "b"], [["a"], []])


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog's bowl, isn't it?", "a dog 's bowl is n't it"),
        ('Black-and-white "photo" (old) of 1,000 men...', "black-and-white photo -lrb- old -rrb- of 1,000 men"),
        ("They cannot stop - at 4:30 p.m. they'll go!", "they can not stop at 4:30 p.m. they 'll go"),
        ("", ""),
    ],
)
def test_captions_split_as_the_treebank_does(caption, words):
    assert tokenize_caption(caption) == words.split()


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Two dogs.", "2 dogs"),
        ("the 1,000 men", "1000 men"),
        ("It's 3.5!", "it's 3.5"),
        ("dont", "don't"),
        ("black/white, A", "black white"),
        (".5", ".5"),
    ],
)
def test_answers_are_normalised(answer, normal):
    assert normalize_answer(answer) == normal


def test_vqa_accuracy_leaves_each_annotator_out():
    # 3 of 10 said yes: for those three only 2 others agree (2/3), for the other seven 3 agree (1).
    assert vqa_accuracy("Yes.", ["yes"] * 3 + ["no"] * 7) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert vqa_accuracy("maybe", ["yes"] * 3 + ["no"] * 7) == 0
    mixed = VqaAccuracy().compute(predictions=["yes", "maybe"], references=[["yes"] * 10, ["no"] * 10])
    assert mixed == {"vqa_accuracy": 0.5}
    with pytest.raises(ValueError, match="no reference answers"):
        vqa_accuracy("yes", [])


def test_retrieval_recall_counts_ties_against_the_query():
    scores = [[0.9, 0.1, 0.2], [0.5, 0.5, 0.5], [0.1, 0.8, 0.7]]
    recall = RetrievalRecall().compute(predictions=scores, references=[[0], [1], [0, 2]])
    assert recall == {"r1": pytest.approx(1 / 3), "r5": 1.0, "r10": 1.0}
    with pytest.raises(ValueError, match="no right item"):
        RetrievalRecall().compute(predictions=[[0.5]], references=[[]])
