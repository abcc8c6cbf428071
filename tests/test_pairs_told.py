"""What a round says of its preference pairs: who wrote what they reject, how they lean, how far people differ."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.operations import Operations
from app.rounds import apply_gate, freeze
from app.run_folder import RunFolder
from app.settings import Settings, read_settings
from eval.objective import load_objective
from feedback.compiling.dataset import pairs_in_words
from feedback.records import Signal
from feedback.store import Store
from tests.test_erasure import AT, OBJECTIVE, asks, corrects, evaluation
from tests.tiny import tiny_model

LEAN = {"pairs": 40, "share": 0.75, "low": 0.6, "high": 0.86, "log_ratio": 0.3}
PAIRS = {
    "rejected_by": {"last_version": 30, "older_versions": 4, "others": 6, "on_policy": 0.75},
    "length_lean": LEAN,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def operations(base: Path, tmp_path: Path) -> Iterator[Operations]:
    """On an objective with a robust loss, where a reviewer corrected one answer and people rated it."""
    folder = tmp_path / "objective"
    folder.mkdir()
    text = OBJECTIVE.format(base=str(base)).replace("items = 2\n", "items = 20\n")
    (folder / "objective.toml").write_text(text)
    golden = {"id": "g1", "question": "How do hiccups stop?", "answer": "They pass by themselves."}
    (folder / "golden.jsonl").write_text(json.dumps(golden))
    settings = Settings(tmp_path / "home", folder, read_settings().cache)
    objective = load_objective(folder)
    robust = objective.model_copy(update={"training": objective.training | {"dpo": {"loss": "robust"}}})
    with Store.open(settings.store_file) as store:
        store.add(
            asks("t1", "ann", "What helps against a cough in the morning?"),
            corrects("s1", "t1", "rita", "A cup of warm tea may help a little.", "reviewer"),
        )
        yield Operations(settings, robust, store)


def rates(number: int) -> list:
    """A question whose answer two people rate, every third time not alike."""
    turn = f"r{number:02}"
    ratings = (1, -1 if number % 3 == 0 else 1)
    return [
        asks(turn, "ann", f"Is number {number} good for me?"),
        *(
            Signal(
                f"{turn}{n}", turn, f"p{n}{number}", "user", "rating", {"rating": value, "reasons": []}, AT
            )
            for n, value in enumerate(ratings)
        ),
    ]


def begin(operations: Operations) -> tuple[dict, dict, list[str]]:
    """The plan of a new round, its dataset's manifest, and what was said on the way."""
    lines: list[str] = []

    def ask(operation: str, **arguments):
        return json.loads(json.dumps(getattr(operations, operation)(**arguments)))

    plan = freeze(operations.settings, ask, None, lines.append).read("plan.json")
    return plan, operations.datasets(plan["dataset_hash"]), lines


def test_a_round_says_whose_answers_its_pairs_reject(operations: Operations):
    """In its output, its plan, the manifest and the card; the base is a version like others."""
    plan, manifest, lines = begin(operations)
    assert manifest["rejected_by"] == {"last_version": 1, "older_versions": 0, "others": 0, "on_policy": 1.0}
    assert plan["pairs"] == {key: manifest[key] for key in PAIRS}
    assert lines[1] == f"r0001: {pairs_in_words(manifest)}"
    assert "Of 1 pairs 100% reject an answer of the last version" in lines[1]
    card = operations.settings.home / "datasets" / plan["dataset_hash"] / "README.md"
    assert pairs_in_words(manifest) in card.read_text()


def test_a_robust_loss_goes_by_how_far_people_differ(operations: Operations):
    """Stated while few things were judged twice, measured from thirty on: a third of them differ."""
    plan, _, _ = begin(operations)
    assert (plan["recipe"]["dpo"]["flip_rate"], plan["flip_rate_from"][:11]) == (0.1, "the default")
    for number in range(30):
        operations.store.add(*rates(number))
    RunFolder(operations.settings.home / "runs" / plan["run"]).write("decision.json", {})
    plan, manifest, _ = begin(operations)
    found = manifest["funnel"]["disagreement"]
    assert (found["judged_twice"], found["share"]) == (30, pytest.approx(1 / 3, abs=1e-6))
    assert plan["recipe"]["dpo"]["flip_rate"] == found["flip_rate"] == pytest.approx(0.2113, abs=1e-4)
    assert plan["flip_rate_from"].startswith("measured: 30 things")
    card = operations.settings.home / "datasets" / plan["dataset_hash"] / "README.md"
    assert "differed 33% of the time, on average over 30 things" in card.read_text()


def test_pairs_in_words():
    """Without a longer answer among them nothing is said of length."""
    by = "Of 40 pairs 75% reject an answer of the last version (4 one of an older version, 6 another model's)"
    assert pairs_in_words(PAIRS) == f"{by}, and 75% prefer the longer answer (95 % interval 60% to 86%)."
    assert pairs_in_words(PAIRS | {"length_lean": {"pairs": 40}}) == f"{by}."


def test_the_decision_hears_the_lean(operations: Operations):
    """Longer answers of a candidate that learnt from pairs which prefer them are spoken of; after SFT alone not."""
    plan, _, _ = begin(operations)
    run = RunFolder(operations.settings.home / "runs" / plan["run"])
    run.write("plan.json", plan | {"pairs": PAIRS})
    champion, candidate = (
        evaluation(version, run.read("suites.json"), "words") for version in ("base", "v1")
    )
    for one, tokens in ((champion, 50), (candidate, 75)):
        for suite in one["suites"].values():
            suite["figures"]["answer_tokens"] = tokens
    run.write("evaluation.json", {"champion": champion, "candidate": candidate})
    said = "50% longer than the champion's (50 to 75 tokens), and 75% of the pairs prefer the longer answer"
    stages = {"sft": {}, "dpo": {}, "kto": {"from": "dpo"}}
    for chosen, is_said in (("dpo", True), ("kto", True), ("sft", False)):
        run.write("run.json", {"chosen": chosen, "stages": stages})
        decision = apply_gate(operations.settings, operations.objective, run)
        assert (said in decision.reasons[-1]) == is_said
