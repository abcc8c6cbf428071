"""Which adapter becomes the candidate: the validation side decides, never a promotion suite."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from statistics import fmean

from feedback.errors import RatchetError
from training.plan import Plan
from training.progress import ProgressFile, write_whole
from training.responder import Progress, Responder
from training.rows import Row
from training.stage import Stage

LIKELIHOOD_SLACK = 0.01  # nats per token that a later stage may lose
PAIRS_NEEDED = 10  # fewer validation pairs say nothing about accuracy
THUMBS_NEEDED = 10  # the same for validation rows that are liked or disliked by themselves
ROWS_AT_MOST = 200  # of each kind; more would cost minutes and change little


@dataclass(frozen=True)
class Validation:
    """What one adapter reaches on the validation side; None where there is nothing to measure on."""

    log_likelihood: float | None  # mean over completions of their mean nats per token
    pair_accuracy: float | None  # share of pairs whose chosen answer is the likelier one, per token
    pairs: int
    each: tuple[float, ...] = ()  # the log-likelihood of each completion
    thumb_gap: float | None = None  # mean log-likelihood of liked answers over that of disliked ones
    thumbs: int = 0
    is_finite: bool = True  # whether every score is a number, those of pairs and thumbs included


def validate(
    responder: Responder,
    sft: Sequence[Row],
    pairs: Sequence[Row],
    progress: Progress,
    thumbs: Sequence[Row] = (),
) -> Validation:
    """Measure an adapter on the first rows of each kind."""
    sft, pairs, thumbs = sft[:ROWS_AT_MOST], pairs[:ROWS_AT_MOST], thumbs[:ROWS_AT_MOST]
    asked = [(row["prompt"], row["completion"][0]["content"]) for row in sft]
    asked += [(row["prompt"], row["chosen"][0]["content"]) for row in pairs]
    asked += [(row["prompt"], row["rejected"][0]["content"]) for row in pairs]
    asked += [(row["prompt"], row["completion"][0]["content"]) for row in thumbs]
    scores = responder.log_likelihoods(asked, progress)
    left = iter(scores)
    told, chosen, rejected, judged = (list(islice(left, len(rows))) for rows in (sft, pairs, pairs, thumbs))
    right = [good > bad for good, bad in zip(chosen, rejected, strict=True)]
    return Validation(
        log_likelihood=sum(told) / len(told) if told else None,
        pair_accuracy=sum(right) / len(right) if right else None,
        pairs=len(pairs),
        each=tuple(told),
        thumb_gap=_gap(judged, [row["label"] for row in thumbs]),
        thumbs=len(thumbs),
        is_finite=all(map(math.isfinite, scores)),
    )


def validated(
    plan: Plan, stages: Mapping[str, Stage], held: Mapping[str, list[Row]], progress: ProgressFile
) -> dict[str, Validation]:
    """What each stage reaches on the validation side. It is kept beside the adapter: after a stop the same counts."""
    clock, before, scores = time.monotonic(), progress.elapsed("choose"), {}
    for number, (name, stage) in enumerate(stages.items()):
        file = stage.folder / "validation.json"

        def tell(done: int, total: int, number: int = number) -> None:
            elapsed, share = time.monotonic() - clock, (number * total + done) / (len(stages) * total)
            line = {"stage": "choose", "step": number * total + done, "steps": len(stages) * total}
            progress.add(
                line
                | {
                    "seconds_left": round(elapsed / share * (1 - share), 1),
                    "elapsed_s": round(before + elapsed, 3),
                }
                | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
            )

        if not file.exists():
            responder = Responder(plan.base_model, stage.adapter)
            found = validate(responder, held["sft"], held["preference"], tell, held.get("unpaired", ()))
            if not found.is_finite:
                raise RatchetError(
                    f"{name}: the adapter answers validation rows with numbers that are not finite; training "
                    f"diverged: lower training.{name}.learning_rate"
                )
            write_whole(file, asdict(found))
        scores[name] = Validation(**json.loads(file.read_text("utf-8")))
    return scores


def choose_first(plan: Plan, scores: Mapping[str, Validation], pairs: int) -> tuple[str, str]:
    """SFT or DPO, and why in words."""
    if "dpo" not in scores:
        return "sft", f"DPO was left out: {pairs} preference pairs, it needs {plan.recipe.dpo.min_pairs}"
    if "sft" not in scores:
        return "dpo", f"there are no supervised rows: DPO started from {_beginning(plan)}"
    return choose(scores["sft"], scores["dpo"])


def choose_again(
    plan: Plan, scores: Mapping[str, Validation], earlier: str | None, because: str
) -> tuple[str, str]:
    """What was chosen before KTO, or KTO, and why in words; `because` says why the earlier one was."""
    if earlier is None:
        return "kto", f"there are no supervised rows and no pairs: KTO started from {_beginning(plan)}"
    chosen, told = choose_after_thumbs(scores[earlier], scores["kto"], earlier)
    return chosen, f"{because}; then {told}"


def _beginning(plan: Plan) -> str:
    return plan.start.version if plan.start else "a fresh adapter on the base model"


def choose(before: Validation, after: Validation, names: tuple[str, str] = ("sft", "dpo")) -> tuple[str, str]:
    """One of the two `names` of stages, and why in words.

    The later one must lose no likelihood to speak of, and no accuracy on pairs.
    """
    earlier, later = names
    if before.log_likelihood is None or after.log_likelihood is None:
        return earlier, "there are no supervised validation rows to compare the two adapters on"
    lost = before.log_likelihood - after.log_likelihood
    likelihoods = (
        f"mean validation log-likelihood {after.log_likelihood:.4f} after {later.upper()} against "
        f"{before.log_likelihood:.4f} after {earlier.upper()}"
    )
    if lost > LIKELIHOOD_SLACK:
        return earlier, f"{likelihoods}: {later.upper()} lost more than {LIKELIHOOD_SLACK} nats per token"
    if before.pairs < PAIRS_NEEDED:
        return later, f"{likelihoods}; {before.pairs} validation pairs are too few to compare accuracies"
    accuracies = f"pair accuracy {after.pair_accuracy:.3f} against {before.pair_accuracy:.3f}"
    if after.pair_accuracy < before.pair_accuracy:
        return earlier, f"{accuracies} on {before.pairs} validation pairs: {later.upper()} lost accuracy"
    return later, f"{likelihoods}; {accuracies} on {before.pairs} validation pairs"


def choose_after_thumbs(before: Validation, after: Validation, earlier: str) -> tuple[str, str]:
    """`earlier` or "kto", and why in words.

    KTO must lose nothing that DPO may not lose; and where validation rows can tell, liked answers must have become
    likelier against disliked ones.
    """
    name, because = choose(before, after, (earlier, "kto"))
    if name == earlier:
        return name, because
    if after.thumb_gap is None or after.thumbs < THUMBS_NEEDED:
        return name, f"{because}; {after.thumbs} validation thumbs are too few to compare likes on"
    gaps = (
        f"liked over disliked answers by {after.thumb_gap:.4f} nats per token against {before.thumb_gap:.4f} "
        f"on {after.thumbs} validation thumbs"
    )
    if after.thumb_gap <= before.thumb_gap:
        return earlier, f"{gaps}: KTO did not part them further"
    return name, f"{because}; {gaps}"


def _gap(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """How far the mean of the liked lies above that of the disliked; None without one of both."""
    liked = [score for score, label in zip(scores, labels, strict=True) if label]
    disliked = [score for score, label in zip(scores, labels, strict=True) if not label]
    return fmean(liked) - fmean(disliked) if liked and disliked else None
