"""Preference tuning: DPO and its kin (see training.recipe.Dpo) on the adapter that SFT made."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from feedback.errors import RatchetError
from training.base_model import load_model, load_tokenizer
from training.device import Device, this_device
from training.plan import Plan
from training.recipe import FLIP_RATE, Dpo
from training.rows import NO_LOSS
from training.stage import Stage, compact_head, lora, on_shared_disk, ordered, run_stage, trainer_settings

TOLERANCE = 0.01  # nats a token by which policy and reference may differ before the first step


def train_dpo(plan: Plan, rows: Dataset, start: Path | None, stage: Stage) -> None:
    """Train on `rows` (prompt_ids, chosen_ids, rejected_ids, length), from the adapter in `start`.

    That adapter is the reference too; without one a fresh adapter starts and the base is the reference.
    """
    trainer = dpo_trainer(plan, rows, start, stage, this_device())
    check_reference(trainer)  # a checkpoint is not read before the training goes on
    run_stage(stage, trainer)


def dpo_trainer(plan: Plan, rows: Dataset, start: Path | None, stage: Stage, device: Device) -> DPOTrainer:
    """TRL's trainer; the reference's log-probabilities are taken here, before the first step."""
    recipe = plan.recipe
    rows = ordered(rows, recipe.dpo, recipe.seed, plan.max_steps, device)
    rows = on_shared_disk(rows, stage, device)
    model = load_model(plan.base_model, recipe.lora.base_bits)
    settings = trainer_settings(stage, recipe, recipe.dpo, rows["length"], model, device)
    if start is not None:
        model = PeftModel.from_pretrained(model, start, is_trainable=True, local_files_only=True)
    with compact_head():
        return _TokenisedDPOTrainer(
            model=model,
            processing_class=load_tokenizer(plan.base_model),
            args=DPOConfig(
                **settings,
                **loss_settings(recipe.dpo),
                precompute_ref_log_probs=True,
            ),
            train_dataset=rows,
            peft_config=lora(recipe) if start is None else None,
        )


def loss_settings(dpo: Dpo) -> dict[str, Any]:
    """What DPOConfig is told of the loss. TRL takes ipo's log-probabilities as means over an answer's tokens."""
    weights = {dpo.loss: 1.0, "sft": dpo.sft_weight}
    used = {name: weight for name, weight in weights.items() if weight}
    return {
        "beta": dpo.beta,
        "loss_type": list(used),
        "loss_weights": list(used.values()),
        "label_smoothing": FLIP_RATE if dpo.flip_rate is None else dpo.flip_rate,  # read by robust alone
    }


def check_reference(trainer: DPOTrainer) -> None:
    """RatchetError unless policy and reference give the first batch the same log-probabilities.

    The trainer has the reference's as columns of its rows, and has switched off all dropout.
    """
    rows = trainer.train_dataset.take(trainer.args.per_device_train_batch_size)
    batch = trainer._prepare_inputs(trainer.data_collator(list(rows)))
    learned = batch["completion_mask"] == 1
    labels = batch["input_ids"].masked_fill(~learned, NO_LOSS)
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with compact_head(), torch.no_grad(), trainer.compute_loss_context_manager():
        policy = trainer.model(**read, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(1)
    reference = torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]])
    apart = ((policy - reference).abs() / learned.sum(1)).max().item()
    if apart > TOLERANCE:  # not where they are no numbers: the first step says so
        raise RatchetError(
            f"dpo: before the first step the policy is {apart:.2g} nats a token from its reference (at most "
            f"{TOLERANCE:g}): the reference is another model; run `make setup`, then `ratchet round`"
        )


class _TokenisedDPOTrainer(DPOTrainer):
    """Takes rows that are tokenised already, the same way as serving does it."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset
