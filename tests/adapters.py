"""Adapters that were never trained, for tests of what serves them."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from training.base_model import load_model


def random_adapter(base: Path, folder: Path, seed: int, scale: float = 0.3) -> Path:
    """A LoRA adapter in `folder` whose B is not zero, so that it answers unlike the base."""
    torch.manual_seed(seed)
    model = get_peft_model(load_model(base), LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, scale)
    model.save_pretrained(folder)
    return folder
