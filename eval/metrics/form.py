"""The form of the answers: whether they repeat themselves, how long they are, and in which language."""

import math

import datasets
import evaluate

from feedback.compiling.cleaning import is_foreign, repetition
from feedback.text import words

KINDS = ("questions",)
NEEDS = {"predictions": "answers", "references": "references", "language": "language"}

_DESCRIPTION = """\
1 minus the share of the answer's words that stand in a run of five that was there before (after Rae et al. 2021,
Gopher, appendix A1). Beside it `length_drift`, the mean natural logarithm of the answer's words over the expert's (0
is the same length, 0.69 twice as long), and `foreign`, the share of answers that are clearly in another language
than the objective's. Range 0 to 1, higher is better. An empty answer scores 1 and counts as one word. No items: a
ValueError.
"""
_INPUTS = """\
    predictions: answers.
    references: the expert's answers.
    language: the language of the domain (ISO 639-1), "" for any.
"""
_CITATION = "Rae et al. 2021, arXiv 2112.11446"


def length_ratio(answer, reference):
    """The natural logarithm of how many times as many words `answer` has as `reference`."""
    return math.log(max(1, len(words(answer))) / max(1, len(words(reference))))


class Form(evaluate.Metric):
    """1 minus the repeated share of the answer, 0 to 1."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references, language):
        if not predictions:
            raise ValueError("form of no items is undefined")
        scores = [1 - repetition(words(answer)) for answer in predictions]
        ratios = [length_ratio(*pair) for pair in zip(predictions, references, strict=True)]
        foreign = [is_foreign(answer, language) for answer in predictions]
        return {
            "form": sum(scores) / len(scores),
            "length_drift": sum(ratios) / len(ratios),
            "foreign": sum(foreign) / len(foreign),
            "scores": scores,
        }
