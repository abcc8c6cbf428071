"""ROUGE-L: the F-measure of the longest common subsequence of words of answer and reference."""

import re

import datasets
import evaluate
import rapidfuzz.distance.LCSseq

KINDS = ("questions", "corrections")
NEEDS = {"predictions": "answers", "references": "references"}

_DESCRIPTION = """\
ROUGE-L of answer and reference over the whole text (Lin 2004), precision and recall weighed alike, words
lower-cased, no stemming. Range 0 to 1, higher is better. An empty answer scores 0. No items: a ValueError.
"""
_INPUTS = """\
    predictions: answers.
    references: the expert's answers.
"""
_CITATION = "Lin 2004, https://aclanthology.org/W04-1013"


def words(text):
    """The lower-cased runs of letters and digits of `text`."""
    return re.findall(r"[^\W_]+", text.lower())


def f_measure(answer, reference):
    """2 LCS / (words of the answer + words of the reference); 0 when they share none."""
    said = words(answer)
    expected = words(reference)
    shared = rapidfuzz.distance.LCSseq.similarity(said, expected)
    return 2 * shared / (len(said) + len(expected)) if shared else 0.0


class RougeL(evaluate.Metric):
    """F-measure of the longest common subsequence, 0 to 1; an empty answer scores 0."""

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
            raise ValueError("rouge_l of no items is undefined")
        scores = [f_measure(*pair) for pair in zip(predictions, references, strict=True)]
        return {"rouge_l": sum(scores) / len(scores), "scores": scores}
