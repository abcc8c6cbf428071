"""Whether the model finds the answer that people prefer likelier than the one they do not."""

import datasets
import evaluate

KINDS = ("pairs",)
NEEDS = {"predictions": "pair_likelihoods", "chosen": "references", "rejected": "rejected"}

_DESCRIPTION = """\
The log-likelihood per token of the preferred answer minus that of the other one (the implicit reward of SimPO,
Meng et al. 2024, section 2.2), in the unit it is given in. Any finite number, higher is better, above 0 is ranked
right. Beside it: `ranked_right`, the share ranked right (a tie is wrong), and `chosen_longer`, the share of pairs
whose preferred answer has more characters: what somebody would get who always takes the longer one. A rejected
answer that the model wrote itself is likely to it by its origin, so compare versions rather than with one half.
No items: a ValueError.
"""
_INPUTS = """\
    predictions: for each pair the log-likelihoods per token of the preferred answer and of the other one.
    chosen: the preferred answers.
    rejected: the other ones.
"""
_CITATION = "Meng et al. 2024, arXiv 2405.14734"


class Preference(evaluate.Metric):
    """Lead of the preferred answer over the other one; above 0 is ranked right."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "chosen": text, "rejected": text}
            ),
        )

    def _compute(self, predictions, chosen, rejected):
        if not predictions:
            raise ValueError("preference of no items is undefined")
        scores = [preferred - other for preferred, other in predictions]
        longer = [len(better) > len(worse) for better, worse in zip(chosen, rejected, strict=True)]
        return {
            "preference": sum(scores) / len(scores),
            "ranked_right": sum(score > 0 for score in scores) / len(scores),
            "chosen_longer": sum(longer) / len(longer),
            "scores": scores,
        }
