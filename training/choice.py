"""Which of the two adapters becomes the candidate: the validation side decides, never a promotion suite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.responder import Progress, Responder
from training.rows import Row

LIKELIHOOD_SLACK = 0.01  # nats per token that DPO may lose
PAIRS_NEEDED = 10  # fewer validation pairs say nothing about accuracy
ROWS_AT_MOST = 200  # of each kind; more would cost minutes and change little


@dataclass(frozen=True)
class Validation:
    """What one adapter reaches on the validation side; None where there is nothing to measure on."""

    log_likelihood: float | None  # mean over completions of their mean nats per token
    pair_accuracy: float | None  # share of pairs whose chosen answer is the likelier one, per token
    pairs: int
    each: tuple[float, ...] = ()  # the log-likelihood of each completion
    is_finite: bool = True  # whether every score is a number, those of pairs included


def validate(
    responder: Responder, sft: Sequence[Row], pairs: Sequence[Row], progress: Progress
) -> Validation:
    """Measure an adapter on the first rows of both kinds."""
    sft, pairs = sft[:ROWS_AT_MOST], pairs[:ROWS_AT_MOST]
    asked = [(row["prompt"], row["completion"][0]["content"]) for row in sft]
    asked += [(row["prompt"], row["chosen"][0]["content"]) for row in pairs]
    asked += [(row["prompt"], row["rejected"][0]["content"]) for row in pairs]
    scores = responder.log_likelihoods(asked, progress)
    told, chosen = scores[: len(sft)], scores[len(sft) : len(sft) + len(pairs)]
    rejected = scores[len(sft) + len(pairs) :]
    right = [good > bad for good, bad in zip(chosen, rejected, strict=True)]
    return Validation(
        log_likelihood=sum(told) / len(told) if told else None,
        pair_accuracy=sum(right) / len(right) if right else None,
        pairs=len(pairs),
        each=tuple(told),
        is_finite=all(map(math.isfinite, scores)),
    )


def choose(sft: Validation, dpo: Validation) -> tuple[str, str]:
    """("sft" or "dpo", why in words). DPO must lose no likelihood to speak of and no accuracy on pairs."""
    if sft.log_likelihood is None or dpo.log_likelihood is None:
        return "sft", "there are no supervised validation rows to compare the two adapters on"
    lost = sft.log_likelihood - dpo.log_likelihood
    likelihoods = (
        f"mean validation log-likelihood {dpo.log_likelihood:.4f} after DPO against {sft.log_likelihood:.4f} "
        f"after SFT"
    )
    if lost > LIKELIHOOD_SLACK:
        return "sft", f"{likelihoods}: DPO lost more than {LIKELIHOOD_SLACK} nats per token"
    if sft.pairs < PAIRS_NEEDED:
        return "dpo", f"{likelihoods}; {sft.pairs} validation pairs are too few to compare accuracies"
    accuracies = f"pair accuracy {dpo.pair_accuracy:.3f} against {sft.pair_accuracy:.3f}"
    if dpo.pair_accuracy < sft.pair_accuracy:
        return "sft", f"{accuracies} on {sft.pairs} validation pairs: DPO lost accuracy"
    return "dpo", f"{likelihoods}; {accuracies} on {sft.pairs} validation pairs"
