"""What a training asks of the machine: settings that follow from its device and change no result."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

CPU_PLACES = 1024  # about 3 GB of activations for the small model in fp32
USABLE = 0.8  # of a GPU's free memory; the rest is for the head, the optimizer and what cannot be foreseen


@dataclass(frozen=True)
class Device:
    """What counts about the place where a training runs."""

    kind: str  # "cpu" or "cuda"
    places: int = 2**31  # tokens, padding included, that it takes at once
    free: int = 0  # bytes of a GPU's memory, before the model is there
    bf16: bool = False  # computes bf16 in hardware
    ragged: bool = False  # attends to rows laid end to end, without padding
    processes: int = 1  # that share each step, as many devices


@dataclass(frozen=True)
class Step:
    """What one step of the optimizer has to hold."""

    rows: int  # on each device
    places: int  # tokens of the longest row, both answers of a pair counted
    divisible: bool  # whether the loss of all rows is the sum of that of its parts
    model_bytes: int
    place_bytes: int  # that one token keeps for the backward pass


def this_device() -> Device:
    """The GPU of this process, or the CPU where there is none; how many share a step, the launcher says."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if not torch.cuda.is_available():
        return Device("cpu", places=CPU_PLACES, processes=processes)
    modern = torch.cuda.get_device_capability() >= (8, 0)  # Ampere: bf16, and what flash attention needs
    flash = find_spec("flash_attn") is not None
    free = torch.cuda.mem_get_info()[0]
    return Device("cuda", free=free, bf16=modern, ragged=modern and flash, processes=processes)


def device_settings(device: Device, step: Step) -> dict[str, Any]:
    """The trainer's arguments for `step` on `device`.

    A divisible step is taken in parts of what the device takes at once; a GPU whose memory is short computes
    activations twice.
    """
    gpu = device.kind == "cuda"
    rows = _part(step.rows, device.places // step.places) if step.divisible else step.rows
    needed = step.model_bytes + step.rows * step.places * step.place_bytes
    return {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": step.rows // rows,
        "use_cpu": not gpu,
        "bf16": device.bf16,
        "activation_checkpointing": gpu and needed > USABLE * device.free,
        "dataloader_pin_memory": gpu,
    }


def _part(rows: int, most: int) -> int:
    """The largest even part of `rows` that is no more than `most`, one at least."""
    return max((part for part in range(1, min(rows, most) + 1) if rows % part == 0), default=1)
