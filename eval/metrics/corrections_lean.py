"""How much nearer the model's answer is to the correction than to what was corrected."""

import datasets
import evaluate
import numpy as np

KINDS = ("corrections",)
NEEDS = {
    "predictions": "answers",
    "references": "references",
    "rejected": "rejected",
    "encoder": "encoder",
}

_DESCRIPTION = """\
Cosine of the sentence embeddings (Reimers & Gurevych 2019) of answer and correction, minus that of the answer and the
rejected original: what `corrections_honoured` cuts at zero, uncut, so that far fewer items show a loss. Range -2 to 2,
higher is better. An empty answer has whatever the encoder makes of it. No items: a ValueError.
"""
_INPUTS = """\
    predictions: answers.
    references: the corrections.
    rejected: the answers that were corrected.
    encoder: `encode(texts)` gives a row of unit length for each text.
"""
_CITATION = "Reimers & Gurevych 2019, arXiv 1908.10084"


class CorrectionsLean(evaluate.Metric):
    """How far the answer leans to the correction, -2 to 2."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text, "rejected": text}),
        )

    def _compute(self, predictions, references, rejected, encoder):
        if not predictions:
            raise ValueError("corrections_lean of no items is undefined")
        vectors = np.asarray(encoder.encode([*predictions, *references, *rejected]), dtype=np.float64)
        answers, corrections, originals = np.split(vectors, 3)
        lean = (answers * (corrections - originals)).sum(axis=1)
        return {"corrections_lean": float(lean.mean()), "scores": lean.tolist()}
