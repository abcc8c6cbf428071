"""Whether the answer says what it must say: the share of the item's claims that it covers."""

import itertools

import datasets
import evaluate
import numpy as np

from feedback.text import sentences

KINDS = ("questions",)
NEEDS = {"predictions": "answers", "claims": "claims", "encoder": "encoder"}
MAY_GUARD = False  # kappa with physicians 0.24 [0.12, 0.34], below the floor of 0.4 for its lower bound

_DESCRIPTION = """\
The share of an item's must-have claims that the answer covers (K-QA's comprehensiveness: Manes et al. 2024). A
claim counts as covered where the cosine of its sentence embedding and that of one sentence of the answer, or of two
in a row, reaches a threshold that was calibrated on physicians' labels; docs/measurements.md says how well the two
agree. It sees what is spoken of, not whether it is affirmed. Range 0 to 1, higher is better. An empty answer scores
0; an item without claims has no score. No items: a ValueError.
"""
_INPUTS = """\
    predictions: answers.
    claims: for each item the claims that its answer must cover.
    encoder: `encode(texts)` gives a row of unit length for each text.
"""
_CITATION = "Manes et al. 2024, K-QA, arXiv 2401.14493"
THRESHOLD = 0.73


def passages(answer):
    """The sentences of `answer`, and each two that follow one another."""
    said = sentences(answer)
    return said + [" ".join(pair) for pair in itertools.pairwise(said)]


def support(answers, claims, encoder):
    """For each item the highest cosine of each of its claims with a passage of its answer; 0 where there is none."""
    said = [passages(answer) for answer in answers]
    texts = list(dict.fromkeys(text for group in (*said, *claims) for text in group))
    place = {text: number for number, text in enumerate(texts)}
    vectors = np.asarray(encoder.encode(texts), dtype=np.float64) if texts else None
    return [
        [max((float(vectors[place[c]] @ vectors[place[p]]) for p in found), default=0.0) for c in group]
        for found, group in zip(said, claims, strict=True)
    ]


class ClaimsCovered(evaluate.Metric):
    """Share of the must-have claims that the answer covers, 0 to 1; None for an item without claims."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "claims": datasets.List(text)}),
        )

    def _compute(self, predictions, claims, encoder):
        if not predictions:
            raise ValueError("claims_covered of no items is undefined")
        scores = [
            sum(cosine >= THRESHOLD for cosine in cosines) / len(cosines) if cosines else None
            for cosines in support(predictions, claims, encoder)
        ]
        taken = [score for score in scores if score is not None]
        mean = {"claims_covered": sum(taken) / len(taken)} if taken else {}
        return mean | {"scores": scores}
