"""VQA accuracy against several human answers (Antol et al., arXiv:1505.00468, section 4), normalised as officially.

After normalisation of punctuation, number words, articles and contractions, "Two dogs." and "2 dogs" are the same.
"""

import re
from collections.abc import Sequence


FULL_MARK_MATCHES = 3  # an answer that three other annotators gave counts fully
DIGITS = "zero one two three four five six seven eight nine ten"
NUMBER_WORDS = {word: str(number) for number, word in enumerate(DIGITS.split())} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
# Not listed: short forms that are other words without the apostrophe (its, were, well, hell, shell, wed, ill).
SHORT_FORMS = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's i'm
i've isn't it'd it'll ma'am mightn't might've mustn't must've needn't o'clock oughtn't shan't should've shouldn't
somebody's someone's something's that'd that's there'd there're there's they'd they'll they're they've wasn't we've
weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've why'll why're
why's won't would've wouldn't y'all you'd you'll you're you've
"""
CONTRACTIONS = {form.replace("'", ""): form for form in SHORT_FORMS.split()}
SPACED_PUNCTUATION = re.compile(r"""[;/\[\]"{}()=+\\_\-><@`?!]""")
THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d)")
FREE_PERIOD = re.compile(r"\.(?!\d)")  # 3.5 and .5 keep their period


def normalize_answer(answer: str) -> str:
    """Normalise an answer for comparison: lower case, no articles, digits for number words, no punctuation."""
    text = THOUSANDS_COMMA.sub("", answer.lower())
    text = FREE_PERIOD.sub("", SPACED_PUNCTUATION.sub(" ", text)).replace(",", " ")
    words = [NUMBER_WORDS.get(word, word) for word in text.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the accuracy of an answer, from 0 to 1.

    Each annotator is left out in turn, and the answer earns min(1, matches among the others / 3). The mean over the
    annotators is the accuracy, so that the same rule can judge a human answer.

    Args:
        prediction: the model's answer, any case and punctuation.
        answers: answers of the annotators, ten in the official sets.

    Raises:
        ValueError: if there are no answers.
    """
    if not answers:
        raise ValueError("no reference answers: VQA accuracy needs at least one")
    said = normalize_answer(prediction)
    matches = [said == normalize_answer(answer) for answer in answers]
    others = [sum(matches) - match for match in matches]
    return sum(min(1.0, count / FULL_MARK_MATCHES) for count in others) / len(answers)
