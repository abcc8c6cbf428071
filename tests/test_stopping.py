"""Cancelling: the step that runs is finished, taken down as a checkpoint, and gone on from to the same result."""

import json
import os
import signal

import pytest
import torch
from test_training import QUICK, finished, new_run
from tiny import tiny_model

from training import device, job
from training.candidate import make_candidate
from training.interruption import Cancelled, Interruption
from training.progress import last_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def interruption():
    """What the job makes of SIGTERM."""
    before, asked = signal.getsignal(signal.SIGTERM), Interruption()
    signal.signal(signal.SIGTERM, asked.ask)
    yield asked
    signal.signal(signal.SIGTERM, before)


def asks(patch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> list[int]:
    """Let a SIGTERM come at the start of the call of this number; the list counts the calls."""
    real, calls = getattr(owner, name), [0]

    def watched(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    patch.setattr(owner, name, watched)
    return calls


@pytest.mark.parametrize(("call", "stage", "step"), [(2, "sft", 2), (5, "dpo", 2)])
def test_sigterm_amid_a_step_leaves_a_checkpoint_of_it(
    tmp_path, monkeypatch, interruption, call: int, stage: str, step: int
):
    """Also where a step is taken in parts; the next start ends as an undisturbed one, byte for byte."""
    monkeypatch.setattr(device, "CPU_PLACES", 150)
    model = tiny_model(tmp_path / "model", hidden=32)
    calm, run = (
        new_run(tmp_path / name, model, (24, 2), (12, 2), QUICK, max_steps=3) for name in ("calm", "hit")
    )
    with monkeypatch.context() as patch:
        calls = asks(patch, torch.optim.AdamW, "step", call)
        with pytest.raises(Cancelled, match=f"goes on from step {step}"):
            make_candidate(run, interruption)
        assert calls == [call], "no step was begun after it"
    checkpoint = last_checkpoint(run / stage / "checkpoints")
    assert checkpoint.name == f"checkpoint-{step}"
    if stage == "sft":
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert state["train_batch_size"] < 8, "in parts"
    assert finished(run)["adapter_sha256"] == finished(calm)["adapter_sha256"]


def test_sigterm_while_the_stages_are_compared_stops_at_once(tmp_path, monkeypatch, interruption):
    """No batch is scored to its end; what was trained is kept."""
    run = new_run(tmp_path, tiny_model(tmp_path / "model", hidden=32), (8, 4), max_steps=1)
    with monkeypatch.context() as patch:
        calls = asks(patch, torch.Tensor, "logsumexp", 1)
        with pytest.raises(Cancelled, match="goes on from where it was"):
            make_candidate(run, interruption)
        assert calls == [1]
    assert (run / "sft" / "stage.json").exists() and not (run / "run.json").exists()
    trained = (run / "sft" / "stage.json").stat().st_mtime_ns
    finished(run)
    assert (run / "sft" / "stage.json").stat().st_mtime_ns == trained, "it is not trained again"


def test_whatever_a_library_makes_of_a_cancellation_the_run_goes_on():
    """An import that SIGTERM interrupts ends in an error of its own; nothing is lost by it."""
    wrapped = ModuleNotFoundError("Could not import module 'LlamaForCausalLM'")
    assert job.reason_of(wrapped, asked=True) == (
        "cancelled; `ratchet round` goes on from where it was",
        True,
    )
    assert job.reason_of(Cancelled(7), asked=True)[0].endswith("step 7")
    assert job.reason_of(wrapped)[1] is False
