"""What a round keeps for a judge, and that an erasure finds it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.examination import main
from app.operations import Operations
from app.rounds import apply_gate
from app.run_folder import RunFolder
from app.settings import Settings
from eval.judge import Judged
from eval.objective import JudgePlan, load_objective
from feedback.pairs import Pair
from feedback.records import Review, Signal
from feedback.store import Store
from tests.adapters import random_adapter
from tests.test_erasure import AT, OBJECTIVE, asks, corrects, evaluation, planted_in
from tests.tiny import tiny_model
from training.registry import adapter_sha256

PLAN = JudgePlan(model="local", floor=0.4, margin=0.6, items=60)
JUDGE = """
[judge]
model = "local"
floor = 0.4
margin = 0.6
items = 60
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(base: Path, tmp_path: Path) -> Settings:
    folder = tmp_path / "objective"
    folder.mkdir()
    text = OBJECTIVE.format(base=str(base)).replace("items = 2\n", "items = 20\n")
    (folder / "objective.toml").write_text(text + JUDGE)
    golden = {"id": "g1", "question": "How do hiccups stop?", "answer": "They pass by themselves."}
    (folder / "golden.jsonl").write_text(json.dumps(golden))
    return Settings(tmp_path / "home", folder, tmp_path / "cache")


@pytest.fixture
def operations(settings: Settings) -> Iterator[Operations]:
    with Store.open(settings.store_file) as store:
        yield Operations(settings, load_objective(settings.objective), store)


def said() -> list:
    """Ben's answer, corrected by Ann with a reviewer's blessing, and Ann's, which a reviewer corrected."""
    return [
        asks("t1", "ann", "I am Ann Lee, what helps against a zebrafink in the morning?"),
        corrects("s1", "t1", "rita", "A cup of warm tea may help a little.", "reviewer"),
        asks("t2", "ben", "How long should a fever last in children?"),
        corrects("s2", "t2", "ann", "A fever and a fenlopper need a doctor."),
        Review("s3", "s2", "rita", "approve", "A fever and a dravenort need a doctor.", AT),
        asks("t3", "ben", "Why do I cough at night?"),
        corrects("s4", "t3", "rita", "Dry air may be a reason for it.", "reviewer"),
    ]


def begin(operations: Operations) -> RunFolder:
    return RunFolder(operations.settings.home / "runs" / operations.begin_round(None)["run"])


def finish(operations: Operations, run: RunFolder, promoted: bool) -> None:
    """As a round ends."""
    last = run.read("plan.json")["last_signal"]
    run.write("decision.json", {"decision": "promote" if promoted else "refuse"})
    operations.finish_round(run.name, {"round": run.name, "last_signal": last, "promoted": promoted})


def test_a_round_freezes_what_reviewers_preferred_since_the_last_promotion(operations: Operations):
    """Without personal data; a round that promoted nothing used nothing up: else a veto would hold for one round."""
    operations.store.add(*said())
    first = begin(operations)
    pairs = {pair.id: pair for pair in map(Pair.from_json, first.read("reviewers_pairs.json"))}
    assert set(pairs) == {"s1", "s2", "s4"}
    assert "Ann" not in json.dumps(first.read("reviewers_pairs.json"))
    assert "zebrafink" in pairs["s1"].messages[0]["content"]
    finish(operations, first, promoted=False)
    second = begin(operations)
    assert {pair["id"] for pair in second.read("reviewers_pairs.json")} == {"s1", "s2", "s4"}
    finish(operations, second, promoted=True)
    now = datetime.now(UTC)
    again = Signal("s5", "t3", "rita", "reviewer", "correction", {"text": "Dry air at night does it."}, now)
    operations.store.add(again)
    assert [pair["id"] for pair in begin(operations).read("reviewers_pairs.json")] == ["s5"]


def test_without_a_judge_nothing_is_kept_for_one(operations: Operations):
    """The pairs are somebody's words: they lie only where they are needed."""
    operations.objective = operations.objective.model_copy(update={"judge": None})
    operations.store.add(*said())
    assert not begin(operations).has("reviewers_pairs.json")


def test_an_erasure_finds_the_pairs(operations: Operations, settings: Settings):
    """Of a round that is over and of one under way, which does not go on; no matter what it was trained on."""
    operations.store.add(*said())
    runs = [begin(operations), begin(operations)]
    for run in runs:
        plan = run.read("plan.json")
        run.write("plan.json", plan | {"dataset_hash": "another"})
        run.write("judge.json", Judged.unheard(PLAN, "it is asleep").to_json())
    finish(operations, runs[0], promoted=False)
    assert planted_in(settings.home / "runs") == {"zebrafink", "dravenort"}
    operations.erase("ann", "oz")
    assert planted_in(settings.home / "runs") == set()
    for run in runs:
        assert not run.has("reviewers_pairs.json") and not run.has("judge.json")
    assert not runs[1].can_go_on()
    assert RunFolder.unfinished(settings.home / "runs") is None


def test_a_reviewers_edit_is_found_in_the_pairs(operations: Operations):
    """The words are theirs, though it began as somebody else's correction."""
    operations.store.add(*said()[2:5])
    run = begin(operations)
    operations.erase("rita", "oz")
    assert not run.has("reviewers_pairs.json")


def test_what_was_judged_without_them_stays(operations: Operations, settings: Settings):
    """Somebody else's erasure leaves the file as it was."""
    operations.store.add(*said()[4:])
    run = begin(operations)
    operations.store.add(asks("t9", "eve", "What is a rash?"))
    before = run.read("reviewers_pairs.json")
    operations.erase("eve", "oz")
    assert run.read("reviewers_pairs.json") == before and run.can_go_on()


def test_the_examination_asks_the_judge(
    operations: Operations, settings: Settings, base: Path, monkeypatch: pytest.MonkeyPatch
):
    """About what was frozen and what both versions answered; both files are there before the stage is over."""
    operations.store.add(*said())
    run = begin(operations)
    sha = adapter_sha256(random_adapter(base, run.path / "adapter", seed=1))
    run.write("run.json", {"version": "v1", "adapter_sha256": sha})
    for name in ("home", "objective", "cache"):
        monkeypatch.setenv(f"RATCHET_{name.upper()}", str(getattr(settings, name)))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr("app.examination.work_in_background", lambda: None)  # this process has more to do
    assert main(str(run.path)) == 0
    judged = Judged.from_json(run.read("judge.json"))
    assert (set(judged.verdicts), set(judged.scores)) == ({"s1", "s2", "s4"}, {"g1"})
    assert judged.why.startswith("what reviewers compared since the last promotion covers")
    assert run.has("evaluation.json")
    run.path.joinpath("judge.json").unlink()
    run.path.joinpath("reviewers_pairs.json").unlink()  # of a round that began before there was a judge
    assert main(str(run.path)) == 0
    assert run.read("judge.json")["why"] == "no reviewer has compared two answers since the last promotion"


def test_the_decision_hears_the_judge(operations: Operations, settings: Settings):
    """A licensed veto stands in gate.json with its reason."""
    operations.store.add(*said())
    run = begin(operations)
    suites = run.read("suites.json")
    champion, candidate = (evaluation(version, suites, "words") for version in ("base", "v1"))
    run.write("evaluation.json", {"champion": champion, "candidate": candidate})
    ids = [f"i{n}" for n in range(20)]
    judged = Judged(
        "tester", None, 0.6, True, "it agrees", scores=dict.fromkeys(ids, -1.0), clusters={i: i for i in ids}
    )
    run.write("judge.json", judged.to_json())
    run.write("run.json", {"chosen": "sft", "stages": {"sft": {}}})
    decision = apply_gate(settings, operations.objective, run)
    assert decision.metrics["judge"].candidate == -1.0
    assert "more than its margin of 0.600 may be lost; it agrees" in decision.reasons[-1]
    assert run.read("gate.json") == json.loads(json.dumps(decision.to_json()))
