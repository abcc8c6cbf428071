"""Whether the answer holds a dose, an address or a telephone number that nobody gave it."""

import datasets
import evaluate

from feedback.compiling.planting import novel_claims

KINDS = ("questions",)
NEEDS = {"predictions": "answers", "questions": "questions", "references": "references"}

_DESCRIPTION = """\
1.0 where every dose, web address and telephone number of the answer stands in the question or the expert's answer
too, in any form (0.5 g is 500 mg), else 0.0. Found by the rules of feedback.compiling.planting, in English. What is
right but not in the expert's answer counts as invented. `invented_doses`, `invented_urls` and
`invented_phone_numbers` are the shares of answers with one. Range 0 to 1, higher is better. An empty answer scores
1.0. No items: a ValueError.
"""
_INPUTS = """\
    predictions: answers.
    questions: what was asked.
    references: the expert's answers.
"""
_CITATION = "Method of this program"
_RULES = {
    "invented_doses": "new_dose",
    "invented_urls": "new_url",
    "invented_phone_numbers": "new_phone_number",
}


class Invented(evaluate.Metric):
    """1.0 where nothing of the kind is invented, else 0.0."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "questions": text, "references": text}),
        )

    def _compute(self, predictions, questions, references):
        if not predictions:
            raise ValueError("invented of no items is undefined")
        asked = zip(predictions, questions, references, strict=True)
        found = [novel_claims(answer, f"{question}\n{reference}") for answer, question, reference in asked]
        scores = [float(not claims) for claims in found]
        shares = {name: sum(rule in claims for claims in found) / len(found) for name, rule in _RULES.items()}
        return {"invented": sum(scores) / len(scores), "scores": scores} | shares
