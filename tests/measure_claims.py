"""How well claims_covered agrees with physicians: `python -m tests.measure_claims [DATA]`.

Each row of claim_labels.jsonl (K-QA, MIT) is an answer by another model, a claim, and whether three physicians
found that the answer entails it. The threshold is chosen on nine tenths of the questions and judged on the rest, in
turn; the interval resamples questions.
"""

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np

from app.settings import read_settings
from eval.metrics.claims_covered import support
from training.encoder import Encoder, encoder_folder

FOLDS = 10
GRID = np.arange(0.3, 0.9, 0.01)
RESAMPLES = 2000


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two raters who say yes or no (Cohen 1960)."""
    by_chance = one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean())
    return ((one == other).mean() - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def best_threshold(cosines: np.ndarray, entailed: np.ndarray) -> float:
    """The threshold of the highest kappa; the middle one where several are equal."""
    kappas = np.array([kappa(cosines >= threshold, entailed) for threshold in GRID])
    return float(np.median(GRID[kappas >= kappas.max() - 1e-12]))


def out_of_sample(cosines: np.ndarray, entailed: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """What is said of each row with the threshold of the other questions."""
    said = np.zeros(len(cosines), dtype=bool)
    for fold in range(FOLDS):
        left_out = groups % FOLDS == fold
        said[left_out] = cosines[left_out] >= best_threshold(cosines[~left_out], entailed[~left_out])
    return said


def interval(said: np.ndarray, entailed: np.ndarray, groups: np.ndarray) -> list[float]:
    """The 95 % bootstrap interval of kappa over questions."""
    rows_of = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    random = np.random.default_rng(1)
    found = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[pick] for pick in random.integers(len(rows_of), size=len(rows_of))])
        found.append(kappa(said[rows], entailed[rows]))
    return np.quantile(found, [0.025, 0.975]).tolist()


def main() -> None:
    here = Path(__file__).resolve().parent.parent
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "shared" / "data"
    rows = [json.loads(line) for line in (data / "claim_labels.jsonl").read_text("utf-8").splitlines()]
    encoder = Encoder(encoder_folder("all-minilm-l6-v2", read_settings().cache))
    found = support([row["answer"] for row in rows], [[row["claim"]] for row in rows], encoder)
    cosines = np.array([cosine for (cosine,) in found])
    labels = np.array([[label == "Entailment" for label in row["labels"]] for row in rows])
    entailed = labels.sum(axis=1) >= 2
    order = {question: number for number, question in enumerate(dict.fromkeys(r["question"] for r in rows))}
    groups = np.array([order[row["question"]] for row in rows])
    said = out_of_sample(cosines, entailed, groups)
    report = {
        "rows": len(rows),
        "questions": len(order),
        "entailed": entailed.mean(),
        "majority_accuracy": max(entailed.mean(), 1 - entailed.mean()),
        "accuracy": (said == entailed).mean(),
        "kappa": kappa(said, entailed),
        "kappa_95": interval(said, entailed, groups),
        "physicians_kappa": [kappa(labels[:, a], labels[:, b]) for a, b in combinations(range(3), 2)],
        "threshold_of_all": best_threshold(cosines, entailed),
    }
    print(json.dumps(report, indent=1, default=float))


if __name__ == "__main__":
    main()
