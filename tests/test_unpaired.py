"""Thumbs that have no partner: a stage of their own, from the adapter that was chosen before it."""

import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from peft import PeftModel
from test_dataset import AT, said, selected
from test_training import SYSTEM, finished, new_run, sft_row

from app.reports import Report
from app.web.rounds_view import live
from feedback.compiling.dataset import freeze
from training.base_model import load_model, load_tokenizer
from training.candidate import make_candidate
from training.choice import Validation, choose_after_thumbs, validate
from training.device import Device
from training.interruption import Cancelled, Interruption
from training.plan import read_plan
from training.progress import ProgressFile, last_checkpoint
from training.registry import adapter_sha256, stages_of
from training.rendering import render
from training.rows import read_rows, teaches_thumbs, thumb_rows
from training.stage import Stage, compact_head
from training.unpaired import balance, interleaved, kto_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = {
    "sft": {"epochs": 2, "learning_rate": 5e-3},
    "dpo": {"learning_rate": 1e-4},
    "kto": {"learning_rate": 1e-3, "batch_size": 4, "epochs": 6},
    "checkpoint_every": 4,
}


def thumb_row(number: int) -> dict:
    """A good answer that was liked, or a bad one to the next question that was not."""
    row, liked = sft_row(number), number % 2 == 0
    answer = row["completion"] if liked else [{"role": "assistant", "content": "Insulin insulin migraine."}]
    return {"prompt": row["prompt"], "completion": answer, "label": liked}


def with_thumbs(run: Path, train: range, validation: range = range(100, 112), share: float = 0.2) -> Path:
    """`run` with unpaired rows in its dataset, which has this share of them."""
    folder = run.parent / "data" / "unpaired"
    folder.mkdir(parents=True)
    for side, numbers in (("train", train), ("validation", validation)):
        table = pyarrow.Table.from_pylist([thumb_row(number) for number in numbers])
        pyarrow.parquet.write_table(table, folder / f"{side}.parquet")
    settings = {"curation": {"unpaired_share": share} if share else {}}
    (folder.parent / "manifest.json").write_text(json.dumps({"settings": settings}))
    return run


@pytest.fixture(scope="module")
def three(tmp_path_factory, model) -> Path:
    """A finished run of three stages."""
    run = new_run(tmp_path_factory.mktemp("three"), model, preference=(8, 4), recipe=RECIPE)
    finished(with_thumbs(run, range(16)))
    return run


def test_thumbs_part_liked_answers_from_disliked_ones(three):
    """The margin between the two kinds grows, also among the validation rows that were not trained on."""
    made = json.loads((three / "run.json").read_text())
    stages = made["stages"]
    assert list(stages) == ["sft", "dpo", "kto"] and made["rows"]["unpaired"] == {
        "train": 16,
        "validation": 12,
    }
    assert stages["kto"]["steps"] == 24 and stages["kto"]["last_loss"] < stages["kto"]["first_loss"]
    assert stages["kto"]["validation_thumb_gap"] > stages["dpo"]["validation_thumb_gap"] + 0.1
    assert stages["kto"]["reward_margin"] > 0.1


def test_every_adapter_is_kept_and_both_choices_are_explained(three):
    """KTO starts from what was chosen of the two before it; run.json says from which, and why it was chosen or not."""
    made = json.loads((three / "run.json").read_text())
    shas = {name: adapter_sha256(three / name / "adapter") for name in ("sft", "dpo", "kto")}
    assert len(set(shas.values())) == 3 and shas[made["chosen"]] == made["adapter_sha256"]
    assert made["stages"]["kto"]["from"] in ("sft", "dpo")
    first, then = made["chosen_because"].split("; then ")
    assert "after DPO" in first and "KTO" in then


def test_progress_shows_the_third_stage_between_two_choices(three):
    """Its steps come after the first choice; times go on counting over both."""
    lines = [json.loads(line) for line in (three / "progress.jsonl").read_text().splitlines()]
    ended = [line["stage"] for line in lines if line["step"] == line["steps"]]
    assert ended == ["sft", "dpo", "choose", "kto", "choose"]
    chosen = [line["elapsed_s"] for line in lines if line["stage"] == "choose"]
    assert chosen == sorted(chosen)


class After(Interruption):
    """Asks to stop as soon as the progress has so many lines of a stage."""

    def __init__(self, progress: Path, stage: str, steps: int):
        super().__init__()
        self._file, self._stage, self._steps = ProgressFile(progress), stage, steps

    @property
    def asked(self) -> bool:
        return len(self._file.stage(self._stage)) >= self._steps

    @asked.setter
    def asked(self, _: bool) -> None:
        pass


def test_stopped_in_the_third_stage_it_ends_where_an_undisturbed_run_does(tmp_path, three):
    """The same adapter, byte for byte, from the choice that was made before and is not made again."""
    run = tmp_path / "r0001"
    shutil.copytree(three, run)
    for done in ("kto", "adapter"):
        shutil.rmtree(run / done)
    (run / "run.json").unlink()
    lines = (run / "progress.jsonl").read_text().splitlines(keepends=True)
    earlier = [line for line in lines if json.loads(line)["stage"] in ("sft", "dpo")]
    (run / "progress.jsonl").write_text("".join(earlier))
    with pytest.raises(Cancelled):
        make_candidate(run, After(run / "progress.jsonl", "kto", 6))
    resumed = int(last_checkpoint(run / "kto" / "checkpoints").name.split("-")[1])
    assert 6 <= resumed < 24 and not (run / "kto" / "stage.json").exists()
    calm = json.loads((three / "run.json").read_text())
    made = finished(run)
    assert adapter_sha256(run / "kto" / "adapter") == adapter_sha256(three / "kto" / "adapter")
    assert made["adapter_sha256"] == calm["adapter_sha256"]
    assert made["stages"]["kto"]["tokens"] == calm["stages"]["kto"]["tokens"]


@pytest.mark.parametrize("loss", ["apo_zero_unpaired", "kto"])
def test_compact_head_gives_equal_losses(tmp_path, model, loss):
    """Scoring the learned positions only is a shorter way to the same loss and the same gradient, for both losses.

    At the start policy and reference agree, so each answer's loss is a half.
    """
    run = with_thumbs(new_run(tmp_path, model, recipe=RECIPE | {"kto": {"loss": loss}}), range(9))
    plan, stage = read_plan(run), Stage("kto", run / "kto", ProgressFile(run / "p", False), Interruption())
    rows = thumb_rows(load_tokenizer(model), read_rows(plan.dataset, "unpaired", "train"), 512)[0]
    trainer = kto_trainer(plan, rows, None, stage, Device("cpu"))
    batches = list(trainer.get_train_dataloader())
    assert [len(batch["label"]) for batch in batches] == ([8] if loss == "kto" else [8, 1])
    batch = trainer._prepare_inputs(batches[0])

    def loss_and_gradient() -> tuple[float, torch.Tensor]:
        trainer.model.zero_grad()
        found = trainer.compute_loss(trainer.model, batch)
        found.backward()
        grads = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        return found.item(), torch.cat(grads)

    full = loss_and_gradient()
    with compact_head():
        compact = loss_and_gradient()
    assert compact[0] == pytest.approx(full[0], rel=1e-5)
    assert torch.allclose(compact[1], full[1], atol=1e-5)
    desirable, undesirable = balance(trainer.train_dataset["label"])
    weights = [desirable if liked else undesirable for liked in batch["label"].tolist()]
    assert full[0] == pytest.approx(0.5 * sum(weights) / len(weights), rel=1e-3)


def test_a_batch_has_some_of_each_kind():
    """However the two kinds come, by length or by chance, they lie evenly; each keeps its order."""
    labels = [True] * 12 + [False] * 4
    order = interleaved(labels)
    assert sorted(order) == list(range(16))
    assert [sum(labels[row] for row in order[at : at + 4]) for at in (0, 4, 8, 12)] == [3, 3, 3, 3]
    assert [row for row in order if labels[row]] == list(range(12))
    assert interleaved([False, False]) == [0, 1]


def test_kto_compares_an_answer_with_its_neighbour_in_the_batch(tmp_path, model):
    """The completion asked for the KL term is that of the row before, round the batch."""
    run = with_thumbs(new_run(tmp_path, model, recipe={"kto": {"loss": "kto", "batch_size": 4}}), range(9))
    plan, stage = read_plan(run), Stage("kto", run / "kto", ProgressFile(run / "p", False), Interruption())
    rows = thumb_rows(load_tokenizer(model), read_rows(plan.dataset, "unpaired", "train"), 512)[0]
    read = kto_trainer(plan, rows, None, stage, Device("cpu")).train_dataset
    answers, asked = list(read["completion_ids"]), list(read["KL_completion_ids"])
    assert len(read) == 8
    for at in (0, 4):
        assert asked[at : at + 4] == [answers[at + 3], *answers[at : at + 3]]


def test_thumb_tokens_are_what_serving_sends(model):
    """The prompt as it is rendered for an answer, then the answer and its stop token; what is cut is counted."""
    tokenizer, row = load_tokenizer(model), thumb_row(2)
    rows, cut = thumb_rows(tokenizer, [row, thumb_row(3)], 512)
    prompt, answer = rows[0]["prompt_ids"], rows[0]["completion_ids"]
    assert prompt == render(tokenizer, row["prompt"]) and answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(answer[:-1]) == row["completion"][0]["content"]
    assert list(rows["label"]) == [True, False] and cut == {"dropped": 0, "truncated": 0}
    assert thumb_rows(tokenizer, [row], len(prompt))[1] == {"dropped": 1, "truncated": 0}
    assert thumb_rows(tokenizer, [row], len(prompt) + 1)[1] == {"dropped": 0, "truncated": 1}


def test_a_dataset_without_a_share_of_thumbs_teaches_none(tmp_path, model):
    """Its unpaired rows lie there for others."""
    run = with_thumbs(new_run(tmp_path, model), range(40), share=0)
    assert not teaches_thumbs(read_plan(run).dataset)
    assert teaches_thumbs(read_plan(with_thumbs(new_run(tmp_path / "b", model), range(2))).dataset)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [(range(15), "8 liked and 7 disliked answers"), (range(0, 60, 2), "30 liked and 0 disliked answers")],
)
def test_too_few_thumbs_or_one_kind_leave_the_stage_out(tmp_path, model, numbers, told):
    """The reason counts them and says what it needs."""
    made = finished(with_thumbs(new_run(tmp_path, model, max_steps=1), numbers))
    assert list(made["stages"]) == ["sft"] and made["chosen"] == "sft"
    assert f"KTO was left out: {told}, it needs 16 and some of each" in made["chosen_because"]


def test_thumbs_alone_train_a_fresh_adapter(tmp_path, model):
    """Without other rows KTO starts from the base, and its adapter loads on the base."""
    run = with_thumbs(new_run(tmp_path, model, sft=(0, 0), max_steps=2), range(16))
    made = finished(run)
    assert made["chosen"] == "kto" and made["stages"]["kto"]["from"] is None
    assert "fresh adapter" in made["chosen_because"]
    PeftModel.from_pretrained(load_model(model), run / "adapter")


@pytest.mark.parametrize(
    ("chosen", "start", "went_through"),
    [
        ("kto", "dpo", ["sft", "dpo", "kto"]),
        ("kto", "sft", ["sft", "kto"]),
        ("kto", None, ["kto"]),
        ("dpo", "dpo", ["sft", "dpo"]),
        ("sft", "sft", ["sft"]),
    ],
)
def test_a_version_names_the_stages_it_went_through(chosen, start, went_through):
    """What was trained and not chosen is none of them."""
    assert (
        stages_of({"chosen": chosen, "stages": {"sft": {}, "dpo": {}, "kto": {"from": start}}})
        == went_through
    )


def test_the_share_of_the_objective_reaches_the_training(tmp_path):
    """With one, thumbs are counted among what a dataset is trained on, and training takes them."""
    events, curation, side_of = said()
    for share in (0, 0.5):
        limits = curation.model_copy(update={"unpaired_share": share, "max_share_per_person": 1})
        selection, funnel = selected(events, limits, side_of)
        manifest = freeze(tmp_path, selection, funnel, {"curation": limits.model_dump(mode="json")}, AT)
        assert manifest["counts"]["unpaired"]["train"] > 0
        assert ("unpaired" in manifest["tokens"]["by_kind"]) is bool(share)
        assert teaches_thumbs(tmp_path / manifest["hash"]) is bool(share)


def test_both_kinds_come_to_the_same():
    """The rarer kind weighs 1, and the sums are equal; one kind alone weighs 1."""
    assert balance([True] * 6 + [False] * 3) == (0.5, 1.0)
    assert balance([True, False, False, False]) == (1.0, pytest.approx(1 / 3))
    assert balance([True, True]) == balance([False]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("before", "after", "chosen"),
    [
        (Validation(-2.0, 0.5, 20, (), 0.1, 20), Validation(-2.005, 0.6, 20, (), 0.2, 20), "kto"),
        (Validation(-2.0, 0.5, 20, (), 0.1, 20), Validation(-2.02, 0.9, 20, (), 0.9, 20), "dpo"),
        (Validation(-2.0, 0.5, 20, (), 0.1, 20), Validation(-1.9, 0.4, 20, (), 0.9, 20), "dpo"),
        (Validation(-2.0, 0.5, 20, (), 0.1, 20), Validation(-1.9, 0.6, 20, (), 0.1, 20), "dpo"),
        (Validation(-2.0, None, 0, (), 0.1, 9), Validation(-1.9, None, 0, (), 0.0, 9), "kto"),
        (Validation(-2.0, None, 0, (), None, 20), Validation(-1.9, None, 0, (), None, 20), "kto"),
        (Validation(None, 0.5, 20, (), 0.1, 20), Validation(None, 0.6, 20, (), 0.9, 20), "dpo"),
    ],
)
def test_chooser_keeps_what_kto_would_lose(before, after, chosen):
    """KTO wins only without loss of likelihood or of accuracy, and where liked answers gained on disliked ones."""
    assert choose_after_thumbs(before, after, "dpo")[0] == chosen


class Scores:
    """A responder that finds an answer as likely as it is told."""

    def __init__(self, told: dict[str, float]):
        self.told = told

    def log_likelihoods(self, pairs, progress) -> list[float]:
        return [self.told[answer] for _, answer in pairs]


def test_liked_answers_are_measured_against_disliked_ones():
    """The gap is a difference of means, on rows of their own beside answers and pairs; one kind alone has none."""

    def row(text: str, **more) -> dict:
        return {"prompt": [SYSTEM], "completion": [{"role": "assistant", "content": text}]} | more

    told = Scores({"a": -1.0, "b": -2.0, "c": -4.0, "d": -3.0})
    thumbs = [row("a", label=True), row("b", label=False), row("c", label=False)]
    found = validate(told, [row("d")], [], lambda *_: None, thumbs)
    assert (found.log_likelihood, found.thumb_gap, found.thumbs) == (-3.0, 2.0, 3)
    assert validate(told, [row("d")], [], lambda *_: None, thumbs[1:]).thumb_gap is None


def test_the_rounds_page_shows_the_third_stage_where_there_is_one():
    """A step of its own while it runs and afterwards; none where nothing is trained on thumbs."""

    def page(*stages: str) -> str:
        lines = [
            {"stage": stage, "step": 2, "steps": 4, "elapsed_s": 2.0, "seconds_left": 2.0}
            | ({} if stage == "choose" else {"loss": 0.5})
            for stage in stages
        ]
        plan = {
            "counts": {"sft": 9, "unpaired": 30, "tokens": 900},
            "dataset_hash": "da7a",
            "champion": "base",
        }
        return live(Report("r0001", plan, None, None, None, False, [], lines, False))

    assert "<li class='now' aria-current='step'>Thumbs</li>" in page("sft", "dpo", "choose", "kto")
    assert "<li class='done'>Thumbs</li>" in page("sft", "kto", "choose")
    assert "Loss on thumbs" in page("sft", "kto")
    assert "Thumbs" not in page("sft", "dpo", "choose")
