"""A warm start: training goes on with the champion's adapter, with replay, and erasure follows it."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from app.operations import Operations
from app.settings import Settings
from eval.objective import load_objective
from feedback.compiling.budget import select
from feedback.compiling.curation import Curation
from feedback.errors import RatchetError
from feedback.records import Knowledge
from feedback.store import Store
from tests.test_budget import WINDOW, chosen, cost, example, knowledge, words_in
from tests.test_erasure import (  # noqa: F401 (fixtures)
    AT,
    HELD_OUT,
    asks,
    base,
    corrects,
    learn,
    serving,
    settings,
    store,
)
from tests.test_training import finished, new_run
from training.base_model import base_model_sha256
from training.recipe import Recipe
from training.registry import adapter_sha256, lineages
from training.search import space

WARM = {"warm_start": True, "sft": {"learning_rate": 1e-9, "epochs": 1}}


# the rows


def test_new_rows_take_turns_with_learnt_ones():
    """As many tokens as the replay's share are of rows that were learnt; without such rows nothing changes."""
    rows = [knowledge(f"{age}{n:02}") for age in ("new", "old") for n in range(20)]
    learnt = {row.id for row in rows if row.id.startswith("old")}
    for share, old in ((0.5, 5), (0.2, 2), (0, 0)):
        curation = Curation(token_budget=10 * 41, replay_share=share)
        found = chosen(select(rows, curation, words_in, WINDOW, learnt))
        assert (len(found), sum(name in learnt for name in found)) == (10, old), share


def test_little_that_is_new_makes_a_short_training():
    """No more is spent than keeps the replay's share, and the other shares hold of that."""
    rows = [knowledge(f"old{n:02}") for n in range(30)] + [example("old", sources=("s1",))]
    rows += [knowledge("new1"), example("new2", sources=("s2",))]
    learnt = {row.id for row in rows if row.id.startswith("old")}
    selection = select(rows, Curation(knowledge_share=0.5, replay_share=0.5), words_in, WINDOW, learnt)
    found = set(chosen(selection))
    assert {"new1", "new2"} <= found and len(found) == 4
    assert cost(selection, origin="knowledge") >= 0.5 * cost(selection)


def test_all_that_is_new_finds_room():
    """New corrections and their pairs are all read, beside as much of what is known and the knowledge's share."""
    rows = [knowledge(f"old{n:03}") for n in range(200)]
    for age, count in (("old", 60), ("new", 10)):
        rows += [example(f"{age}c{n:02}", sources=(f"{age}{n:02}",)) for n in range(count)]
        rows += [example(f"{age}p{n:02}", "preference", sources=(f"{age}{n:02}",)) for n in range(count)]
    learnt = {row.id for row in rows if row.id.startswith("old")}
    curation = Curation(token_budget=20_000, knowledge_share=0.6, preference_share=0.1)
    selection = select(rows, curation, words_in, WINDOW, learnt)
    found = set(chosen(selection))
    assert {row.id for row in rows} - learnt <= found
    assert cost(selection) < 0.5 * 20_000, "a short training"
    assert cost(selection, origin="knowledge") == pytest.approx(0.6 * cost(selection), rel=0.05)
    replayed = {kind: sum(name.startswith(kind) for name in found) for kind in ("oldc", "oldp")}
    assert all(9 <= count <= 10 for count in replayed.values()), replayed


def test_without_replay_knowledge_keeps_its_share():
    """It is no reason to leave out what is new that all knowledge is known."""
    rows = [knowledge(f"old{n:02}") for n in range(50)]
    rows += [example(f"{age}{n}", sources=(f"{age}{n}",)) for age in ("old", "new") for n in range(5)]
    learnt = {row.id for row in rows if row.id.startswith("old")}
    selection = select(rows, Curation(knowledge_share=0.5, replay_share=0), words_in, WINDOW, learnt)
    feedback = {row.id for row in selection.rows if row.origin == "feedback"}
    assert feedback == {f"new{n}" for n in range(5)}
    assert cost(selection, origin="knowledge") >= 0.5 * cost(selection)


def test_nothing_new_is_said():
    """What the champion has learnt already is not trained on alone."""
    rows = [knowledge("old")]
    with pytest.raises(
        RatchetError, match=r"^nothing new to train on since the champion was made.*warm_start"
    ):
        select(rows, Curation(), words_in, WINDOW, {"old"})


# the training


def test_training_goes_on_with_the_adapter(tmp_path: Path, model: Path):
    """It begins where the other ended, leaves that as it was, and run.json names it."""
    first = finished(new_run(tmp_path / "first", model))
    adapter = tmp_path / "first" / "r0001" / "adapter"
    start = {"version": first["version"], "adapter": str(adapter), "adapter_sha256": adapter_sha256(adapter)}
    on = finished(new_run(tmp_path / "on", model, recipe=WARM, start=start))
    likelihood = "validation_log_likelihood"
    assert on["stages"]["sft"][likelihood] == pytest.approx(first["stages"]["sft"][likelihood], abs=1e-4)
    assert on["start"] == {key: start[key] for key in ("version", "adapter_sha256")}
    assert adapter_sha256(adapter) == first["adapter_sha256"] == start["adapter_sha256"]
    assert first["start"] is None

    pairs = new_run(tmp_path / "pairs", model, sft=(0, 6), preference=(8, 0), recipe=WARM, start=start)
    alone = finished(pairs)["stages"]["dpo"]
    assert alone[likelihood] == pytest.approx(first["stages"]["sft"][likelihood], abs=0.05), "not the base"


def test_an_adapter_that_changed_is_not_gone_on_with(tmp_path: Path, model: Path):
    """It is not the version that the plan names."""
    (tmp_path / "adapter").mkdir()
    start = {"version": "v0001-feedbeef", "adapter": str(tmp_path / "adapter"), "adapter_sha256": "feedbeef"}
    with pytest.raises(RatchetError, match="is not what v0001-feedbeef was"):
        finished(new_run(tmp_path / "run", model, start=start))


def test_the_search_leaves_the_adapters_size_alone():
    """A warm start goes on with an adapter that has one."""
    varied = space(Recipe(warm_start=True), pairs=0, mixes=1)
    assert "lora.rank" not in varied and "sft.learning_rate" in varied


# the round


@pytest.fixture
def operations(settings: Settings, store: Store, serving) -> Operations:  # noqa: F811
    objective = load_objective(settings.objective)
    return Operations(settings, replace_training(objective, warm_start=True), store, serving)


def replace_training(objective, **said):
    return objective.model_copy(update={"training": objective.training | said})


def says(number: int, person: str, question: str, better: str) -> list:
    return [
        asks(f"t{number}", person, question),
        corrects(f"s{number}", f"t{number}", "rita", better, "reviewer"),
    ]


FIRST = says(1, "ann", "What helps against a cough at night?", "A spoonful of honey soothes it.")
SECOND = says(2, "ben", "How long should a fever last in children?", "A fever of three days needs a doctor.")
THIRD = says(3, "cleo", "Does ginger tea warm cold hands?", "It may, and so do gloves and moving about.")


def test_a_round_goes_on_from_the_champion(operations: Operations):
    """The base cannot be gone on with; the corrections that the champion knew are asked again, come what may."""
    plan, first = learn(operations, *FIRST)
    assert plan["start"] is None
    tell(operations, plan)
    plan, second = learn(operations, *SECOND, weights=b"2")
    assert plan["start"]["version"] == first
    tell(operations, plan)
    versions = lineages(operations.settings.home)
    assert [run["version"] for run in versions[second]] == [second, first]

    without = operations.objective.curation.model_copy(update={"replay_share": 0})
    operations.objective = operations.objective.model_copy(update={"curation": without})
    plan, _ = learn(operations, *THIRD, weights=b"3")
    suites = json.loads((operations.settings.home / "runs" / plan["run"] / "suites.json").read_text())
    asked = next(suite["items"] for suite in suites if suite["name"] == "corrections")
    assert {item["id"]: item["known_to_champion"] for item in asked} == {"s1": True, "s2": True, "s3": False}


def test_another_rank_is_said(operations: Operations):
    """An adapter cannot change its size."""
    plan, first = learn(operations, *FIRST)
    tell(operations, plan)
    operations.objective = replace_training(operations.objective, lora={"rank": 4})
    operations.store.add(*SECOND)
    with pytest.raises(
        RatchetError, match=rf"^training.lora is not of rank 16 and alpha 32 as {first}.*warm_start = false"
    ):
        operations.begin_round(None)


def test_another_base_model_is_said(operations: Operations):
    """An adapter belongs to the weights that it was trained on."""
    plan, first = learn(operations, *FIRST)
    tell(operations, plan, base_model_sha256="0" * 64)
    operations.store.add(*SECOND)
    with pytest.raises(RatchetError, match=rf"is not the base model that {first} was trained on"):
        operations.begin_round(None)


def test_a_golden_question_that_the_champion_learnt_is_said(operations: Operations):
    """Which came after it; from the base the row is left out, and the round begins."""
    plan, first = learn(operations, *FIRST)
    tell(operations, plan)
    with (operations.objective.folder / "golden.jsonl").open("a") as golden:
        item = {"id": "g2", "question": "What helps against a cough at night?", "answer": "Honey."}
        golden.write("\n" + json.dumps(item))
    operations.store.add(*SECOND)
    with pytest.raises(RatchetError, match=rf"^{first} has learnt .* asks the question of the .*'g2'; begin"):
        anew(operations).begin_round(None)
    operations.objective = replace_training(operations.objective, warm_start=False)
    plan = anew(operations).begin_round(None)
    assert plan["start"] is None and plan["counts"]["sft"] == 1


def test_what_no_suite_asks_may_have_been_learnt(operations: Operations):
    """Knowledge on held-out ground came when the questions were drawn already: the round begins."""
    hiccup = Knowledge("k1", "Why does somebody hiccup?", "The midriff does it.", AT, HELD_OUT)
    operations.store.add(hiccup)  # with the golden one as many as the suite asks
    plan, first = learn(operations, *FIRST)
    tell(operations, plan)
    known = Knowledge("k2", "What helps against a cough at night?", "A spoon of honey helps.", AT, HELD_OUT)
    operations.store.add(known, *SECOND)
    assert operations.begin_round(None)["start"]["version"] == first


def anew(operations: Operations) -> Operations:
    """As after a restart, when the objective's files are read again."""
    return Operations(operations.settings, operations.objective, operations.store)


def test_rows_of_a_stage_that_was_not_kept_are_new(operations: Operations):
    """A champion that SFT made has learnt no pairs, though its dataset had some."""
    plan, _ = learn(operations, *FIRST)
    tell(operations, plan, chosen="sft")
    operations.store.add(*SECOND)
    under_way = operations.begin_round(None)
    dataset = (
        operations.settings.home / "datasets" / under_way["dataset_hash"] / "preference" / "train.parquet"
    )
    assert len(pyarrow.parquet.read_table(dataset)) == 2


def test_what_went_on_from_a_persons_words_goes_with_them(operations: Operations):
    """A version has learnt all that the one before it had, though its own dataset holds none of their words."""
    plan, first = learn(operations, *FIRST)
    tell(operations, plan)
    without = operations.objective.curation.model_copy(update={"replay_share": 0})
    operations.objective = operations.objective.model_copy(update={"curation": without})
    plan, second = learn(operations, *SECOND, weights=b"2")
    tell(operations, plan)
    operations.store.add(*THIRD)
    under_way = operations.begin_round(None)
    document = operations.erase("ann", "oz")
    assert document["versions"] == sorted([first, second]) and document["serves_now"] == "base"
    assert plan["dataset_hash"] not in document["datasets"]
    for run in (plan["run"], under_way["run"]):
        assert not (operations.settings.home / "runs" / run / "adapter").exists()
    assert (operations.settings.home / "runs" / under_way["run"] / "failure.json").exists()


def tell(operations: Operations, plan: dict, chosen: str = "dpo", **said) -> None:
    """Let run.json of `plan` say what its training would have said."""
    file = operations.settings.home / "runs" / plan["run"] / "run.json"
    said |= {"chosen": chosen, "stages": {"sft": {}, "dpo": {}}}
    said.setdefault("base_model_sha256", base_model_sha256(Path(plan["base_model"])))
    made = json.loads(file.read_text()) | {key: plan[key] for key in ("recipe", "start")} | said
    file.write_text(json.dumps(made))
