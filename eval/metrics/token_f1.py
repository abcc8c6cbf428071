"""Token overlap: the F1 of the words that answer and reference share, as SQuAD measures it."""

import collections
import re

import datasets
import evaluate

KINDS = ("questions", "corrections")
NEEDS = {"predictions": "answers", "references": "references"}

_DESCRIPTION = """\
The F1 of the bags of words of answer and reference (Rajpurkar et al. 2016, SQuAD), lower-cased, punctuation
removed; articles are kept, because the metric must not depend on the language. Words are what stands
between spaces. Range 0 to 1, higher is better. An empty answer scores 0. No items: a ValueError.
"""
_INPUTS = """\
    predictions: answers.
    references: the expert's answers.
"""
_CITATION = "Rajpurkar et al. 2016, arXiv 1606.05250"


def words(text):
    """The lower-cased words of `text` without punctuation."""
    return re.sub(r"[^\w\s]|_", "", text.lower()).split()


def f1(answer, reference):
    """Harmonic mean of precision and recall over the words in common."""
    said = collections.Counter(words(answer))
    expected = collections.Counter(words(reference))
    common = (said & expected).total()
    return 2 * common / (said.total() + expected.total()) if common else 0.0


class TokenF1(evaluate.Metric):
    """F1 of shared words, 0 to 1; an empty answer scores 0."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        if not predictions:
            raise ValueError("token_f1 of no items is undefined")
        scores = [f1(*pair) for pair in zip(predictions, references, strict=True)]
        return {"token_f1": sum(scores) / len(scores), "scores": scores}
