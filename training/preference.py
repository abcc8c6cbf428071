"""Preference tuning: DPO (Rafailov et al. 2023, arXiv 2305.18290) on the adapter that SFT made."""

from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from training.base_model import load_model, load_tokenizer
from training.device import Device, this_device
from training.plan import Plan
from training.stage import Stage, compact_head, lora, on_shared_disk, ordered, run_stage, trainer_settings


def train_dpo(plan: Plan, rows: Dataset, start: Path | None, stage: Stage) -> None:
    """Train on `rows` (prompt_ids, chosen_ids, rejected_ids, length), from the adapter in `start`.

    That adapter is the reference too; without one a fresh adapter starts and the base is the reference.
    """
    run_stage(stage, dpo_trainer(plan, rows, start, stage, this_device()))


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
                beta=recipe.dpo.beta,
                loss_type=["sigmoid", "sft"],
                loss_weights=[1.0, recipe.dpo.sft_weight],
                precompute_ref_log_probs=True,
            ),
            train_dataset=rows,
            peft_config=lora(recipe) if start is None else None,
        )


class _TokenisedDPOTrainer(DPOTrainer):
    """Takes rows that are tokenised already, the same way as serving does it."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset
