"""Supervised fine-tuning: a LoRA adapter, fresh or the champion's, learns the completions of a dataset."""

from datasets import Dataset
from peft import PeftModel
from trl import SFTConfig, SFTTrainer

from training.base_model import load_model, load_tokenizer
from training.device import Device, this_device
from training.looks import look
from training.patience import LOOKS, BestLook
from training.plan import Plan
from training.stage import Stage, lora, ordered, run_stage, trainer_settings


def train_sft(plan: Plan, rows: Dataset, stage: Stage, held: Dataset | None = None) -> None:
    """Train on `rows` (input_ids, labels, length); leaves the adapter in the stage's folder.

    The loss on `held` is measured on the way, as often as patience asks for or else the plan.
    """
    trainer = sft_trainer(plan, rows, stage, this_device())
    patience, best = plan.recipe.sft.patience, None
    if held is not None:
        look(trainer, held, LOOKS if patience else plan.looks, stage.progress, at_end=patience is not None)
        if patience:
            best = BestLook(patience)
            trainer.add_callback(best)
    run_stage(stage, trainer, best)


def sft_trainer(plan: Plan, rows: Dataset, stage: Stage, device: Device) -> SFTTrainer:
    """TRL's trainer for rows that are tokenised already, the same way as serving does it."""
    recipe = plan.recipe
    rows = ordered(rows, recipe.sft, recipe.seed, plan.max_steps, device)
    model = load_model(plan.base_model, recipe.lora.base_bits)
    settings = trainer_settings(stage, recipe, recipe.sft, rows["length"], model, device)
    if device.ragged:  # rows are cut already, and TRL wants to hear of no limit then
        settings |= {"padding_free": True, "max_length": None}
    if device.ragged and device.kind == "cuda":
        model.set_attn_implementation("flash_attention_2")
    if plan.start:
        model = PeftModel.from_pretrained(model, plan.start.adapter, is_trainable=True, local_files_only=True)
    return SFTTrainer(
        model=model,
        processing_class=load_tokenizer(plan.base_model),
        args=SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=rows,
        peft_config=None if plan.start else lora(recipe),
    )
