"""Semantic similarity: the cosine of sentence-encoder vectors of the answer and the expert's answer."""

import datasets
import evaluate
import numpy as np

KINDS = ("questions", "corrections")
NEEDS = {"predictions": "answers", "references": "references", "encoder": "encoder"}

_DESCRIPTION = """\
The cosine of the sentence embeddings of answer and reference (Reimers & Gurevych 2019, Sentence-BERT).
Range -1 to 1, higher is better. An empty answer scores 0. No items: a ValueError.
"""
_INPUTS = """\
    predictions: answers.
    references: the expert's answers.
    encoder: `encode(texts)` gives a row of unit length for each text.
"""
_CITATION = "Reimers & Gurevych 2019, arXiv 1908.10084"


class Similarity(evaluate.Metric):
    """Cosine similarity of answer and reference, -1 to 1; an empty answer scores 0."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references, encoder):
        if not predictions:
            raise ValueError("similarity of no items is undefined")
        vectors = np.asarray(encoder.encode([*predictions, *references]), dtype=np.float64)
        answers, experts = vectors[: len(predictions)], vectors[len(predictions) :]
        cosines = (answers * experts).sum(axis=1)
        said = np.array([bool(text.strip()) for text in predictions])
        scores = np.where(said, cosines, 0.0)
        return {"similarity": float(scores.mean()), "scores": scores.tolist()}
