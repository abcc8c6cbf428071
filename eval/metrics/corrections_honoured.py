"""Whether the model now says what the correction says rather than what was corrected."""

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
1.0 where the cosine of the sentence embeddings (Reimers & Gurevych 2019) of answer and correction is larger
than that of the answer and the rejected original, else 0.0; a tie and an empty answer score 0.0. Higher is
better. It sees the drift of the wording, not whether a fact is right. No items: a ValueError.
"""
_INPUTS = """\
    predictions: answers.
    references: the corrections.
    rejected: the answers that were corrected.
    encoder: `encode(texts)` gives a row of unit length for each text.
"""
_CITATION = "Reimers & Gurevych 2019, arXiv 1908.10084"


class CorrectionsHonoured(evaluate.Metric):
    """1.0 where the answer is nearer to the correction than to what was corrected, else 0.0."""

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
            raise ValueError("corrections_honoured of no items is undefined")
        vectors = np.asarray(encoder.encode([*predictions, *references, *rejected]), dtype=np.float64)
        answers, corrections, originals = np.split(vectors, 3)
        nearer = (answers * corrections).sum(axis=1) > (answers * originals).sum(axis=1)
        said = np.array([bool(text.strip()) for text in predictions])
        scores = (nearer & said).astype(float)
        return {"corrections_honoured": float(scores.mean()), "scores": scores.tolist()}
