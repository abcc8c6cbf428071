"""Whether the model can tell what it was taught, asked in other words."""

import collections

import datasets
import evaluate

KINDS = ("taught",)
NEEDS = {"predictions": "option_likelihoods", "references": "answer_indexes"}
MAY_GUARD = False  # it asks what was trained on: a gain here is no gain on questions that are new

_DESCRIPTION = """\
1.0 where the right option has the highest log-likelihood, in the unit it is given in (nats per token, which keeps long
options comparable: Brown et al. 2020, section 2.4), else 0.0; a tie is wrong. Beside the mean, `constant_answer` is
the share that always naming the most frequent right position would get. Range 0 to 1, higher is better. No items: a
ValueError.
"""
_INPUTS = """\
    predictions: for each item the log-likelihoods of its options, at least two.
    references: the position of the right option, from 0.
"""
_CITATION = "Brown et al. 2020, arXiv 2005.14165"


class Taught(evaluate.Metric):
    """1.0 where the right option is the likeliest."""

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
            raise ValueError("taught of no items is undefined")
        scores = [float(is_right(*pair)) for pair in zip(predictions, references, strict=True)]
        most_frequent = max(collections.Counter(references).values())
        return {
            "taught": sum(scores) / len(scores),
            "constant_answer": most_frequent / len(scores),
            "scores": scores,
        }


def is_right(options, right):
    """Whether the option at `right` is likelier than each other one."""
    return options.count(max(options)) == 1 and options[right] == max(options)
