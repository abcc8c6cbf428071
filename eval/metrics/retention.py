"""What the model still knows: multiple choice as a continuous score, so that small losses show early."""

import collections

import datasets
import evaluate

KINDS = ("multiple_choice",)
NEEDS = {"predictions": "option_likelihoods", "references": "answer_indexes"}

_DESCRIPTION = """\
The log-likelihood of the right option minus that of the best wrong one, in the unit it is given in (nats per
token, which keeps long options comparable: Brown et al. 2020, section 2.4). Any finite number, higher is
better, above 0 is a right choice. Beside it: `accuracy`, the share of right choices (a tie is wrong), and
`constant_answer`, the share that always naming the most frequent right position would get.
No items: a ValueError.
"""
_INPUTS = """\
    predictions: for each item the log-likelihoods of its options, at least two.
    references: the position of the right option, from 0.
"""
_CITATION = "Brown et al. 2020, arXiv 2005.14165"


def lead(options, right):
    """The right option's log-likelihood minus the best wrong one's."""
    return options[right] - max(value for place, value in enumerate(options) if place != right)


class Retention(evaluate.Metric):
    """Lead of the right option over the best wrong one; above 0 is a right choice."""

    def _info(self):
        options = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": options, "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references):
        if not predictions:
            raise ValueError("retention of no items is undefined")
        scores = [lead(*pair) for pair in zip(predictions, references, strict=True)]
        most_frequent = max(collections.Counter(references).values())
        return {
            "retention": sum(scores) / len(scores),
            "accuracy": sum(score > 0 for score in scores) / len(scores),
            "constant_answer": most_frequent / len(scores),
            "scores": scores,
        }
