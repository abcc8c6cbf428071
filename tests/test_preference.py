"""Preference tuning: each loss learns, a wrong reference is caught, and a run says what its pairs were like."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset
from test_training import finished, new_run, pair_row

from feedback.errors import RatchetError
from training.base_model import load_tokenizer
from training.device import Device
from training.interruption import Cancelled, Interruption
from training.plan import read_plan
from training.preference import check_reference, dpo_trainer, loss_settings, train_dpo
from training.progress import ProgressFile, last_checkpoint
from training.recipe import FLIP_RATE, Dpo, Recipe, with_flip_rate
from training.registry import adapter_sha256
from training.rows import pair_lengths, pair_rows, read_rows
from training.stage import Stage

pytestmark = pytest.mark.usefixtures("one_thread")

LOSSES = ("sigmoid", "robust", "ipo", "apo_zero")
DPO = {"learning_rate": 2e-3, "batch_size": 4, "epochs": 1.5}  # three steps


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model):
    """What SFT made of a few answers."""
    run = new_run(tmp_path_factory.mktemp("sft"), model, max_steps=4)
    finished(run)
    return run / "adapter"


def told(folder, model, dropout=0.0, **dpo):
    """A plan with eight pairs, the pairs, and a stage for them."""
    recipe = {"lora": {"dropout": dropout}, "dpo": DPO | dpo}
    run = new_run(folder, model, preference=(8, 0), recipe=recipe)
    plan, stage = read_plan(run), Stage("dpo", run / "dpo", ProgressFile(run / "p.jsonl"), Interruption())
    pairs = pair_rows(load_tokenizer(model), read_rows(plan.dataset, "preference", "train"), 512)[0]
    return plan, pairs, stage


def losses(stage: Stage) -> list[float]:
    return [line["loss"] for line in stage.progress.stage("dpo").values()]


KINDS = {name: {"loss": name, "sft_weight": 0} for name in LOSSES}
UNFLIPPED = {"loss": "robust", "sft_weight": 0, "flip_rate": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model, adapter) -> dict[str, Stage]:
    """A finished stage of three steps with each kind of loss alone."""
    folder, stages = tmp_path_factory.mktemp("trained"), {}
    for name, dpo in (KINDS | {"unflipped": UNFLIPPED}).items():
        plan, pairs, stages[name] = told(folder / name, model, **dpo)
        train_dpo(plan, pairs, adapter, stages[name])
    return stages


def test_each_loss_begins_where_it_must_and_falls(trained):
    """With policy and reference alike the losses are ln 2, ln 2, (1 / 2 beta)^2 and 1; each learns in its own way."""
    begins = {"sigmoid": 0.6931, "robust": 0.6931, "ipo": 25.0, "apo_zero": 1.0}
    for name, begun in begins.items():
        first, *_, last = losses(trained[name])
        assert first == pytest.approx(begun, abs=2e-3) and last < first - 0.01
    assert len({losses(trained[name])[-1] for name in LOSSES}) == 4


def test_a_robust_loss_without_flips_is_plain(trained):
    """Nothing is taken back where nobody errs."""
    assert losses(trained["unflipped"]) == losses(trained["sigmoid"]) != losses(trained["robust"])


def test_the_default_is_sigmoid_with_an_sft_term():
    """What is asked of TRL; a term without weight is left out."""
    both = {"beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}
    assert loss_settings(Dpo()) == both | {"label_smoothing": FLIP_RATE}
    alone = loss_settings(Dpo(loss="robust", flip_rate=0.2, sft_weight=0, beta=0.3))
    assert alone == {"beta": 0.3, "loss_type": ["robust"], "loss_weights": [1.0], "label_smoothing": 0.2}


def test_policy_and_reference_begin_alike(tmp_path, model, adapter):
    """Whatever it starts from, and with dropout in the adapter; the reference of another model is found out."""
    plan, pairs, stage = told(tmp_path / "sft", model)
    from_sft = dpo_trainer(plan, pairs, adapter, stage, Device("cpu"))
    plan, pairs, stage = told(tmp_path / "base", model, dropout=0.5)
    from_base = dpo_trainer(plan, pairs, None, stage, Device("cpu"))
    check_reference(from_sft)
    check_reference(from_base)
    from_sft.train_dataset = from_base.train_dataset  # which has the base's log-probabilities as columns
    with pytest.raises(RatchetError, match=r"nats a token from its reference.*another model"):
        check_reference(from_sft)


def test_every_loss_goes_on_where_it_was_stopped(tmp_path, model, adapter, trained):
    """Cancelled after the first step and started again: losses and adapter of an undisturbed training, to the byte."""
    for name, dpo in KINDS.items():
        plan, pairs, stage = told(tmp_path / name, model, **dpo)
        with pytest.raises(Cancelled):
            train_dpo(plan, pairs, adapter, replace(stage, interruption=Interruption(asked=True)))
        assert last_checkpoint(stage.checkpoints).name == "checkpoint-1"
        train_dpo(plan, pairs, adapter, stage)
        assert losses(stage) == losses(trained[name])
        assert adapter_sha256(stage.adapter) == adapter_sha256(trained[name].adapter)


def test_flip_rate_is_the_persons_then_measured_then_stated():
    """It is found for a robust loss alone; run.json repeats the number and says where it is from."""
    robust = Recipe(dpo=Dpo(loss="robust"))
    measured, source = with_flip_rate(robust, 0.14, 41)
    assert measured.dpo.flip_rate == 0.14 and source.startswith("measured: 41 things")
    stated, source = with_flip_rate(robust, None, 3)
    assert stated.dpo.flip_rate == FLIP_RATE and source.startswith("the default: 3 things")
    own = Recipe(dpo=Dpo(loss="robust", flip_rate=0.3))
    assert with_flip_rate(own, 0.14, 41) == (own, "the settings")
    assert with_flip_rate(Recipe(), 0.14, 41) == (Recipe(), None)


def test_run_json_says_what_the_pairs_were_like(tmp_path, model, adapter):
    """Who wrote what they reject and how they lean, as the plan has it; how long both answers are, in tokens."""
    pairs = {"rejected_by": {"last_version": 6, "older_versions": 1, "others": 1, "on_policy": 0.75}}
    more = {"flip_rate_from": "the settings", "pairs": pairs, "max_steps": 1}
    run = finished(new_run(tmp_path, model, sft=(0, 0), preference=(8, 0), **more))
    assert run["flip_rate_from"] == "the settings"
    rows = pair_rows(load_tokenizer(model), [pair_row(number) for number in range(8)], 512)[0]
    assert run["pairs"] == pairs | pair_lengths(rows)
    assert run["pairs"]["chosen_longer"] == 1 and run["pairs"]["chosen_tokens"] > 20
    assert json.loads((adapter.parent / "run.json").read_text())["pairs"] is None, "it had none"


def test_lengths_of_pairs():
    """Means in tokens; a pair of equal lengths does not prefer the longer one."""
    pairs = [([1, 2, 3], [1]), ([1], [1, 2, 3]), ([1, 2], [1, 2]), ([1, 2], [1])]
    rows = Dataset.from_list([{"chosen_ids": chosen, "rejected_ids": other} for chosen, other in pairs])
    assert pair_lengths(rows) == {"chosen_tokens": 2, "rejected_tokens": 1.75, "chosen_longer": 0.5}
