"""How likely the model finds frozen general text: whether training on one domain cost it the language."""

import math

import datasets
import evaluate

KINDS = ("text",)
NEEDS = {"predictions": "likelihoods"}

_DESCRIPTION = """\
The mean log-probability per token of frozen text, in nats; beside it its perplexity, e to the power of minus
the mean over texts (Jelinek et al. 1977), each text weighing the same whatever its length. Range below or
at 0, higher is better (perplexity: from 1, lower is better, cut at e^700 so that it stays a number); it
depends on the tokenizer, so compare models of one tokenizer only. No items: a ValueError.
"""
_INPUTS = """\
    predictions: mean nats per token of each text.
"""
_CITATION = "Jelinek et al. 1977, https://doi.org/10.1121/1.2016299"
_LARGEST_EXPONENT = 700.0  # e^710 is no longer a float


class GeneralText(evaluate.Metric):
    """Mean nats per token of general text, at most 0, and its perplexity."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("float64")}),
        )

    def _compute(self, predictions):
        if not predictions:
            raise ValueError("general_text of no items is undefined")
        mean = sum(predictions) / len(predictions)
        perplexity = math.exp(min(-mean, _LARGEST_EXPONENT))
        return {"general_text": mean, "perplexity": perplexity, "scores": list(predictions)}
