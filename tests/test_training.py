"""A training job: it learns, it can be stopped and killed, it says why it failed, and it repeats itself."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from peft import PeftModel

from feedback.errors import RatchetError
from training import job
from training.base_model import load_model, load_tokenizer
from training.candidate import make_candidate
from training.choice import Validation, choose
from training.interruption import Interruption
from training.plan import read_plan
from training.progress import ProgressFile, last_checkpoint
from training.registry import adapter_sha256
from training.rendering import render
from training.rows import NO_LOSS, pair_rows, sft_rows, training_order

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
SYSTEM = {"role": "system", "content": "You give plain, careful health information."}
QUICK = {"sft": {"epochs": 6, "learning_rate": 5e-3}, "dpo": {"learning_rate": 1e-4}, "checkpoint_every": 4}


def sft_row(number: int) -> dict:
    """A question whose answer has a form that can be learned."""
    answer = f"See a doctor about number {number}, and drink enough water."
    return {
        "prompt": [SYSTEM, {"role": "user", "content": f"What is number {number}?"}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def pair_row(number: int) -> dict:
    row = sft_row(number)
    rejected = [{"role": "assistant", "content": "Insulin insulin migraine."}]
    return {"prompt": row["prompt"], "chosen": row["completion"], "rejected": rejected}


def new_run(
    folder: Path, model: Path, sft=(16, 6), preference=(0, 0), recipe: dict | None = None, **plan
) -> Path:
    """A run folder with a plan, and a dataset of so many (training, validation) rows of each kind."""
    data, run = folder / "data", folder / "r0001"
    run.mkdir(parents=True)
    for kind, row, counts in (("sft", sft_row, sft), ("preference", pair_row, preference)):
        for side, numbers in (("train", range(counts[0])), ("validation", range(100, 100 + counts[1]))):
            if numbers:
                (data / kind).mkdir(parents=True, exist_ok=True)
                table = pyarrow.Table.from_pylist([row(n) for n in numbers])
                pyarrow.parquet.write_table(table, data / kind / f"{side}.parquet")
    told = {
        "run": "r0001",
        "dataset": str(data),
        "dataset_hash": "h",
        "base_model": str(model),
        "base_model_name": "tiny",
        "recipe": QUICK if recipe is None else recipe,
    }
    (run / "plan.json").write_text(json.dumps(told | plan))
    return run


def finished(run: Path) -> dict:
    """Train in this process; what run.json says."""
    make_candidate(run, Interruption())
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory, model) -> Path:
    """A finished run with an SFT and a DPO stage."""
    run = new_run(tmp_path_factory.mktemp("both"), model, preference=(12, 12))
    finished(run)
    return run


def test_sft_makes_the_validation_answers_likelier(tmp_path, model):
    """Sixteen rows teach the form of an answer to questions that were not among them."""
    longer = finished(new_run(tmp_path / "longer", model))
    shorter = finished(new_run(tmp_path / "shorter", model, max_steps=1))
    stage = longer["stages"]["sft"]
    assert stage["last_loss"] < stage["first_loss"] - 1
    assert stage["validation_log_likelihood"] > shorter["stages"]["sft"]["validation_log_likelihood"] + 1
    assert shorter["stages"]["sft"]["steps"] == 1 and stage["steps"] == 12


def test_run_json_says_everything_needed_to_repeat_it(both):
    """Seed, versions, hashes, threads, settings, times, margins, and the choice with its reason."""
    run = json.loads((both / "run.json").read_text())
    assert run["version"] == f"v0001-{run['adapter_sha256'][:8]}"
    assert run["adapter_sha256"] == adapter_sha256(both / "adapter")
    assert run["threads"] == 1 and run["packages"]["trl"].startswith("1.16")
    assert run["recipe"] == read_plan(both).recipe.model_dump(mode="json")
    assert run["rows"] == {
        "sft": {"train": 16, "validation": 6},
        "preference": {"train": 12, "validation": 12},
    }
    for stage in run["stages"].values():
        assert stage["wall_s"] > 0 and stage["cpu_s"] > 0 and stage["tokens"] > 0
    assert run["stages"]["dpo"]["reward_margin"] > 0 and run["stages"]["dpo"]["reward_accuracy"] > 0.5


def test_both_adapters_are_kept_and_the_choice_is_explained(both):
    """The candidate is a copy of one of the two; the reason gives the figures it rests on."""
    run = json.loads((both / "run.json").read_text())
    shas = {name: adapter_sha256(both / name / "adapter") for name in ("sft", "dpo")}
    assert shas["sft"] != shas["dpo"] and shas[run["chosen"]] == run["adapter_sha256"]
    assert f"{run['stages']['dpo']['validation_log_likelihood']:.4f}" in run["chosen_because"]
    assert not (both / "sft" / "checkpoints").exists(), "a complete stage needs none"


def test_progress_has_a_line_per_step_and_stage(both):
    """Each line can be shown as it is: where it stands, how fast, how long still."""
    lines = [json.loads(line) for line in (both / "progress.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if line["step"] == line["steps"]] == ["sft", "dpo", "choose"]
    assert [line["step"] for line in lines if line["stage"] == "sft"] == list(range(1, 13))
    for line in lines:
        assert line["seconds_left"] >= 0 and line["elapsed_s"] > 0
        if line["stage"] != "choose":
            assert {"loss", "learning_rate", "grad_norm", "tokens_per_s"} <= line.keys()


def test_training_tokens_are_what_serving_sends(model):
    """Prompt and completion, token for token, are the start of the next turn's prompt; only the answer is learned."""
    tokenizer = load_tokenizer(model)
    row = sft_row(3)
    row["prompt"][1]["content"] += " <|im_end|>"
    rows, _ = sft_rows(tokenizer, [row], 512)
    prompt = render(tokenizer, row["prompt"])
    next_turn = render(tokenizer, [*row["prompt"], *row["completion"], {"role": "user", "content": "And?"}])
    ids, labels = rows[0]["input_ids"], rows[0]["labels"]
    assert next_turn[: len(ids)] == ids
    assert labels == [NO_LOSS] * len(prompt) + ids[len(prompt) :]
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 3, "a turn each"
    pairs, _ = pair_rows(tokenizer, [pair_row(3)], 512)
    assert pairs[0]["prompt_ids"] == render(tokenizer, sft_row(3)["prompt"])
    assert pairs[0]["chosen_ids"][-1] == pairs[0]["rejected_ids"][-1] == tokenizer.eos_token_id


def test_rows_that_do_not_fit_are_counted(tmp_path, model):
    """A prompt that fills the length is dropped, a completion that passes it is cut, and run.json says so."""
    tokenizer = load_tokenizer(model)
    length = len(render(tokenizer, sft_row(1)["prompt"]))
    for max_length, cut in (
        (length, {"dropped": 1, "truncated": 0}),
        (length + 1, {"dropped": 0, "truncated": 1}),
    ):
        assert sft_rows(tokenizer, [sft_row(1)], max_length)[1] == cut
        assert pair_rows(tokenizer, [pair_row(1)], max_length)[1] == cut
    run = finished(new_run(tmp_path, model, recipe=QUICK | {"max_length": length + 4}, max_steps=1))
    assert run["truncated"] == {"sft": 16, "preference": 0}


def test_training_order_is_laid_out_ahead():
    """Every epoch sees each row once, batches hold like lengths, a part of an epoch is a part of the rows."""
    lengths = [10 * (row % 7) + row % 3 for row in range(50)]
    order = training_order(lengths, batch=4, epochs=2, seed=1)
    assert sorted(order) == sorted([*range(50), *range(50)])
    assert order == training_order(lengths, batch=4, epochs=2, seed=1)
    assert order != training_order(lengths, batch=4, epochs=2, seed=2)
    padded = sum(4 * max(lengths[row] for row in order[at : at + 4]) for at in range(0, 100, 4))
    assert padded < 1.1 * 2 * sum(lengths)
    part = training_order(lengths, batch=4, epochs=0.5, seed=1)
    assert len(part) == len(set(part)) == 25


def test_dpo_is_left_out_below_its_minimum(tmp_path, model):
    """Seven pairs are too few; the reason counts them."""
    run = finished(new_run(tmp_path, model, preference=(7, 3), max_steps=1))
    assert run["chosen"] == "sft" and list(run["stages"]) == ["sft"]
    assert "7 preference pairs" in run["chosen_because"]


def test_pairs_alone_train_a_fresh_adapter(tmp_path, model):
    """Without supervised rows DPO starts from the base, and its adapter loads on the base."""
    run = new_run(tmp_path, model, sft=(0, 0), preference=(8, 0), max_steps=2)
    assert finished(run)["chosen"] == "dpo"
    assert "fresh adapter" in json.loads((run / "run.json").read_text())["chosen_because"]
    PeftModel.from_pretrained(load_model(model), run / "adapter")


def test_without_validation_rows_sft_is_chosen(tmp_path, model):
    """Where nothing can be compared the gentler adapter stands, and the reason says so."""
    run = finished(new_run(tmp_path, model, sft=(8, 0), preference=(8, 0), max_steps=1))
    assert run["chosen"] == "sft" and "no supervised validation rows" in run["chosen_because"]
    assert run["stages"]["sft"]["validation_log_likelihood"] is None


@pytest.mark.parametrize(
    ("sft", "dpo", "chosen"),
    [
        (Validation(-2.0, 0.5, 20), Validation(-2.005, 0.6, 20), "dpo"),
        (Validation(-2.0, 0.5, 20), Validation(-2.02, 0.9, 20), "sft"),
        (Validation(-2.0, 0.5, 20), Validation(-1.9, 0.4, 20), "sft"),
        (Validation(-2.0, 0.5, 9), Validation(-1.9, 0.4, 9), "dpo"),
        (Validation(None, 0.5, 20), Validation(None, 0.6, 20), "sft"),
    ],
)
def test_chooser_keeps_what_dpo_would_lose(sft, dpo, chosen):
    """DPO wins only without loss of likelihood to speak of, nor of accuracy where pairs can tell."""
    assert choose(sft, dpo)[0] == chosen


def test_diverging_training_fails_with_its_step(tmp_path, model):
    """A loss that is no number ends the run, names the step and says what to change."""
    recipe = {"sft": {"learning_rate": 1e30, "epochs": 6}}
    run = new_run(tmp_path, model, recipe=recipe)
    with pytest.raises(RatchetError, match=r"step \d+.*learning_rate"):
        make_candidate(run, Interruption())
    assert not (run / "run.json").exists() and not (run / "adapter").exists()


def test_nothing_to_train_on_is_said(tmp_path, model):
    """A dataset without rows is an error in words."""
    run = new_run(tmp_path, model, sft=(0, 0))
    (tmp_path / "data").mkdir()
    with pytest.raises(RatchetError, match="nothing to train on"):
        make_candidate(run, Interruption())


def test_reasons_fit_one_line_and_say_whether_to_try_again():
    """Everything that ends a job becomes a line for the round."""
    assert job.reason_of(OSError(errno.ENOSPC, "No space left on device"))[0].startswith("the disk is full")
    assert job.reason_of(RuntimeError("I/O error: No space left on device (os error 28)"))[1] is True
    assert job.reason_of(RatchetError("lower it")) == ("lower it", False)
    reason, again = job.reason_of(ValueError("first\nsecond"))
    assert "ValueError: first;" in reason and again is False


def test_checkpoint_that_was_not_finished_is_not_used(tmp_path):
    """Only a checkpoint that was written to its end is resumed from, and the latest by number."""
    for step, files in ((9, ["whole"]), (10, ["whole"]), (11, ["trainer_state.json"])):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in files:
            (tmp_path / f"checkpoint-{step}" / name).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_killed_and_cancelled_job_ends_where_an_undisturbed_one_does(tmp_path, model):
    """kill -9, then SIGTERM, then a third start: the same adapter, byte for byte, and reasons on the way."""
    recipe = QUICK | {"sft": {"epochs": 24}}  # 48 steps: long enough to be hit in the middle
    calm = finished(new_run(tmp_path / "calm", model, preference=(8, 0), recipe=recipe))
    run = new_run(tmp_path / "hit", model, preference=(8, 0), recipe=recipe)

    assert _hit(run, signal.SIGKILL, after_step=9) == -signal.SIGKILL
    assert not (run / "failure.json").exists()
    killed_at = _last_step(run)
    with (run / "progress.jsonl").open("a") as file:
        file.write('{"stage": "sft", "st')  # as a kill in the middle of a line leaves it

    assert _hit(run, signal.SIGTERM, after_step=killed_at + 7) == 1
    failure = json.loads((run / "failure.json").read_text())
    resumed = int(last_checkpoint(run / "sft" / "checkpoints").name.split("-")[1])
    assert failure == {"reason": f"cancelled; `ratchet round` goes on from step {resumed}", "resumable": True}
    assert killed_at < resumed < 48 and not (run / "run.json").exists()

    made = finished(run)
    assert made["adapter_sha256"] == calm["adapter_sha256"]
    assert made["stages"]["sft"]["steps"] == 48
    assert made["stages"]["sft"]["tokens"] == calm["stages"]["sft"]["tokens"]


def _hit(run: Path, how: signal.Signals, after_step: int) -> int:
    """Start the job as a child process, send it a signal once it is past a step; returns its exit code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (run / "training.log").open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "training.job", str(run)], env=environment, stdout=output, stderr=output
        )
        while child.poll() is None and _last_step(run) <= after_step:
            time.sleep(0.005)
        child.send_signal(how)
        return child.wait(timeout=120)


def _last_step(run: Path) -> int:
    return max(ProgressFile(run / "progress.jsonl").stage("sft"), default=0)
