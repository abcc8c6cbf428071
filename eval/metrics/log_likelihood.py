"""How likely the model finds the expert's answer, in nats per token."""

import datasets
import evaluate

KINDS = ("questions", "corrections")
NEEDS = {"predictions": "likelihoods"}

_DESCRIPTION = """\
The mean log-probability per token that the model gives the expert's answer after the question: minus the
cross-entropy (Shannon 1948), in nats. Range below or at 0, higher is better; it depends on the tokenizer, so
compare models of one tokenizer only. No items: a ValueError.
"""
_INPUTS = """\
    predictions: mean nats per token of each expert's answer.
"""
_CITATION = "Shannon 1948, A Mathematical Theory of Communication"


class LogLikelihood(evaluate.Metric):
    """Mean nats per token of the expert's answer, at most 0."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("float64")}),
        )

    def _compute(self, predictions):
        if not predictions:
            raise ValueError("log_likelihood of no items is undefined")
        return {"log_likelihood": sum(predictions) / len(predictions), "scores": list(predictions)}
