"""Numbers that are none end a training in one line that says whose they are and what to change."""

import pytest
from safetensors.torch import load_file, save_file
from test_training import finished, new_run
from tiny import tiny_model

from feedback.errors import RatchetError

pytestmark = pytest.mark.usefixtures("one_thread")


def spoilt(file, value: float) -> None:
    """One number of every matrix in a safetensors file becomes `value`."""
    weights = load_file(file)
    for matrix in weights.values():
        matrix.view(-1)[0] = value
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(("sft", "pairs", "stage"), [(8, 0, "sft"), (0, 8, "dpo")])
def test_a_damaged_base_is_not_called_a_learning_rate(tmp_path, sft: int, pairs: int, stage: str):
    """Before the first update only the base can be at fault, the reference of DPO included."""
    model = tiny_model(tmp_path / "model", hidden=32)
    spoilt(model / "model.safetensors", float("nan"))
    run = new_run(tmp_path, model, (sft, 0), (pairs, 0))
    with pytest.raises(RatchetError, match=f"{stage} step 1: .*before anything was learnt.*fetch it again"):
        finished(run)
    assert not (run / stage / "stage.json").exists()


def test_diverging_dpo_fails_with_its_step(tmp_path):
    """The stage and its own learning rate are named; the adapter of SFT is still there."""
    model, recipe = tiny_model(tmp_path / "model", hidden=32), {"dpo": {"learning_rate": 1e30, "epochs": 4}}
    run = new_run(tmp_path, model, (8, 0), (8, 0), recipe)
    with pytest.raises(RatchetError, match=r"dpo.*lower training\.dpo\.learning_rate"):
        finished(run)
    assert (run / "sft" / "stage.json").exists() and not (run / "run.json").exists()


def test_an_adapter_that_answers_with_no_numbers_is_no_candidate(tmp_path):
    """Finite weights may still overflow; the validation side finds out before anything is chosen."""
    model = tiny_model(tmp_path / "model", hidden=32)
    run = new_run(tmp_path, model, (8, 4), max_steps=1)
    finished(run)
    for file in ("run.json", "sft/validation.json"):
        (run / file).unlink()
    spoilt(run / "sft" / "adapter" / "adapter_model.safetensors", 3e38)
    with pytest.raises(RatchetError, match=r"sft: .*not finite.*lower training\.sft\.learning_rate"):
        finished(run)
    assert not (run / "run.json").exists()
