"""Tuning on thumbs that have no partner: APO-zero without pairs, or KTO (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from trl import KTOConfig, KTOTrainer

from feedback.errors import RatchetError
from training.base_model import load_model, load_tokenizer
from training.device import Device, this_device
from training.plan import Plan
from training.rows import filled
from training.stage import Stage, compact_head, lora, on_shared_disk, ordered, run_stage, trainer_settings


def train_kto(plan: Plan, rows: Dataset, start: Path | None, stage: Stage) -> None:
    """Train on `rows` (prompt_ids, completion_ids, label, length, weight), from the adapter in `start`.

    That adapter is the reference too; without one a fresh adapter starts and the base is the reference.
    """
    run_stage(stage, kto_trainer(plan, rows, start, stage, this_device()))


def kto_trainer(plan: Plan, rows: Dataset, start: Path | None, stage: Stage, device: Device) -> KTOTrainer:
    """TRL's trainer; the reference's log-probabilities are taken here, before the first step."""
    recipe, own = plan.recipe, plan.recipe.kto
    rows = ordered(rows, own, recipe.seed, plan.max_steps, replace(device, processes=1))
    order = interleaved(list(rows["label"]))
    rows = rows.select(order if device.processes == 1 else filled(order, own.batch_size))
    if own.loss == "kto" and own.batch_size < 2 * device.processes:
        raise RatchetError(
            f'training.kto.loss = "kto" compares the answers of a batch, and {device.processes} processes have one '
            "each; start fewer, or raise training.kto.batch_size"
        )
    if own.loss == "kto":
        rows = _with_neighbours(rows, own.batch_size)
    rows = on_shared_disk(rows, stage, device)
    model = load_model(plan.base_model, recipe.lora.base_bits)
    settings = trainer_settings(stage, recipe, own, rows["length"], model, device)
    if start is not None:
        model = PeftModel.from_pretrained(model, start, is_trainable=True, local_files_only=True)
    desirable, undesirable = balance(list(rows["label"]))
    with compact_head():
        return _TokenisedKTOTrainer(
            model=model,
            processing_class=load_tokenizer(plan.base_model),
            args=KTOConfig(
                **settings,
                beta=own.beta,
                loss_type=own.loss,
                desirable_weight=desirable,
                undesirable_weight=undesirable,
                precompute_ref_log_probs=True,
            ),
            train_dataset=rows,
            peft_config=lora(recipe) if start is None else None,
        )


def balance(labels: Sequence[bool]) -> tuple[float, float]:
    """The weights of liked and of disliked answers with which both come to the same: the rarer kind weighs 1.

    The paper's equation 8 wants the liked ones' sum at 1 to 4/3 of the others'. One kind alone weighs 1.
    """
    liked = sum(labels)
    disliked = len(labels) - liked
    rarer = min(liked, disliked) or max(liked, disliked)
    return (rarer / liked if liked else 1.0), (rarer / disliked if disliked else 1.0)


def interleaved(labels: Sequence[bool]) -> list[int]:
    """Row numbers with liked and disliked answers evenly among each other, each kind in its order.

    Batches of like lengths would often hold one kind only, as disliked answers tend to have another length.
    """
    kinds = [[row for row, label in enumerate(labels) if label is kind] for kind in (True, False)]
    places = [((at + 0.5) / len(kind), row) for kind in kinds for at, row in enumerate(kind)]
    return [row for _, row in sorted(places)]


def _with_neighbours(rows: Dataset, batch: int) -> Dataset:
    """`rows` with KL_completion_ids: in each batch the completion of the row before, which KTO asks for its KL term.

    A last batch of one row has no other completion, and is left out.
    """
    if len(rows) > 1 and len(rows) % batch == 1:
        rows = rows.select(range(len(rows) - 1))
    answers = list(rows["completion_ids"])
    batches = [answers[at : at + batch] for at in range(0, len(answers), batch)]
    moved = [answer for part in batches for answer in (part[-1], *part[:-1])]
    return rows.add_column("KL_completion_ids", moved)


class _TokenisedKTOTrainer(KTOTrainer):
    """Takes rows that are tokenised already, the same way as serving does it."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset
