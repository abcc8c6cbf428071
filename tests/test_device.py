"""What a training asks of its device changes its speed and its memory, never what it learns."""

import pytest
import torch
import torch.nn.functional as F
from test_training import SYSTEM, sft_row

from training.base_model import load_tokenizer
from training.device import Device, Step, device_settings
from training.head import ROWS, LabelledHead
from training.interruption import Interruption
from training.plan import Plan
from training.progress import ProgressFile
from training.rows import sft_rows
from training.sft import sft_trainer
from training.stage import Stage, compact_head

GB = 10**9
CPU = Device("cpu", places=1024)
H200 = Device("cuda", free=140 * GB, bf16=True, ragged=True)


def step(rows: int = 8, places: int = 512, divisible: bool = True) -> Step:
    """A step of a model of 2 GB whose tokens keep a megabyte each."""
    return Step(rows, places, divisible, model_bytes=2 * GB, place_bytes=10**6)


@pytest.mark.parametrize(
    ("rows", "places", "at_once"),
    [(8, 512, 2), (8, 128, 8), (8, 129, 4), (8, 2000, 1), (6, 300, 3), (7, 512, 1), (1, 100, 1)],
)
def test_cpu_takes_a_step_in_even_parts(rows, places, at_once):
    """Parts are as large as fit, and together are the step."""
    told = device_settings(CPU, step(rows, places))
    assert told["per_device_train_batch_size"] == at_once
    assert told["gradient_accumulation_steps"] * at_once == rows
    assert at_once == 1 or at_once * places <= CPU.places
    assert (told["use_cpu"], told["bf16"], told["activation_checkpointing"]) == (True, False, False)


def test_indivisible_step_stays_whole():
    """A loss that is not the sum of its parts is never taken in parts."""
    told = device_settings(CPU, step(divisible=False))
    assert (told["per_device_train_batch_size"], told["gradient_accumulation_steps"]) == (8, 1)


@pytest.mark.parametrize(
    ("device", "bf16", "twice"),
    [
        (H200, True, False),
        (Device("cuda", free=8 * GB, bf16=True), True, False),
        (Device("cuda", free=7 * GB, bf16=True), True, True),
        (Device("cuda", free=7 * GB), False, True),
    ],
)
def test_gpu_takes_a_step_whole(device, bf16, twice):
    """bf16 where the GPU computes it; activations are computed twice only where 6.1 GB do not fit in its 80 %."""
    told = device_settings(device, step())
    assert (told["per_device_train_batch_size"], told["gradient_accumulation_steps"]) == (8, 1)
    assert (told["use_cpu"], told["bf16"], told["activation_checkpointing"]) == (False, bf16, twice)


def trainer_of(model, folder, device, rows=11):
    """A trainer on two steps, the second one not full; the rows are long enough for a CPU to take them in parts."""
    told = {"prompt": [SYSTEM], "completion": sft_row(1)["completion"]}
    long = [
        told | {"prompt": [SYSTEM, {"role": "user", "content": "water " * (60 + 9 * row)}]}
        for row in range(rows)
    ]
    plan = Plan(
        run="r0001", dataset=folder, dataset_hash="h", base_model=model, base_model_name="tiny", recipe={}
    )
    stage = Stage("sft", folder, ProgressFile(folder / "progress.jsonl"), Interruption())
    return sft_trainer(plan, sft_rows(load_tokenizer(model), long, 512)[0], stage, device), stage


def learned(trainer, stage) -> tuple[list[float], torch.Tensor]:
    """The loss of each step, and the adapter after the last."""
    with compact_head():
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def test_parts_learn_what_the_whole_does(tmp_path, model):
    """Batches in parts, or laid end to end without padding, give the losses and the adapter of whole ones."""
    parts, stage = trainer_of(model, tmp_path / "parts", CPU)
    assert parts.args.gradient_accumulation_steps > 1
    whole, _ = trainer_of(model, tmp_path / "whole", Device("cpu"))
    assert whole.args.gradient_accumulation_steps == 1
    ragged, _ = trainer_of(model, tmp_path / "ragged", Device("cpu", ragged=True))
    assert ragged.padding_free
    losses, adapter = learned(whole, stage)
    assert len(losses) == 2
    for trainer in (parts, ragged):
        found = learned(trainer, stage)
        assert found[0] == pytest.approx(losses, rel=1e-4)
        assert torch.allclose(found[1], adapter, atol=2e-5)


def test_labelled_head_is_the_plain_one():
    """Log-probabilities and gradients are those of logits and log_softmax, for more rows than are held at once."""
    torch.manual_seed(1)
    weight, targets = torch.randn(300, 16), torch.randint(300, (2 * ROWS + 3,))
    mine = torch.randn(len(targets), 16, requires_grad=True)
    plain = mine.detach().clone().requires_grad_()
    each = torch.rand(len(targets))
    found = LabelledHead.apply(mine, weight, targets)
    expected = -F.cross_entropy(plain @ weight.T, targets, reduction="none")
    (found * each).sum().backward()
    (expected * each).sum().backward()
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(mine.grad, plain.grad, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(LabelledHead.apply(mine, weight, targets), found)
    nothing = LabelledHead.apply(mine[:0], weight, targets[:0])
    assert nothing.shape == (0,) and nothing.requires_grad
