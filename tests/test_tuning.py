"""`ratchet tune`: trials on the validation side, one cut off goes on, and the next round goes by what won."""

import json
import os
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from app.domain import load_domain, recipe_of
from app.door import open_door
from app.erasure import clear, survey
from app.found_settings import FoundSettings, read_found
from app.operations import Operations
from app.run_folder import SEARCH, Holder, RunFolder, only_round
from app.searches import running, searches, trials, unfinished
from app.settings import Settings, read_settings
from app.tuning import Limit, conclude, search_if_due, tune
from eval.objective import Gate
from feedback.errors import RatchetError, UsageError
from feedback.exchange.importers import import_files
from feedback.records import Event, new_id
from feedback.store import Store
from tests.test_circle import COMPLAINTS, OBJECTIVE
from tests.tiny import tiny_model
from training.candidate import make_candidate
from training.interruption import Cancelled, Interruption
from training.recipe import Recipe
from training.search import LOOKS, Study, point_of, space

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = (
    ("knowledge_share = 0\n", "knowledge_share = 0.5\n"),
    ("validation_share = 0.1\n", "validation_share = 0.25\n"),
    ("learning_rate = 0.02, epochs = 12", "learning_rate = 0.01, epochs = 2, batch_size = 4"),
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with knowledge and reviewers' corrections, and a tiny model."""
    folder = tmp_path / "objective"
    folder.mkdir()
    text = OBJECTIVE.format(base=str(tiny_model(tmp_path / "model")))
    for before, after in SMALL:
        assert before in text
        text = text.replace(before, after)
    (folder / "objective.toml").write_text(text)
    golden = [
        {"id": f"g{n}", "question": f"Is number {n} golden?", "answer": "It is golden indeed."}
        for n in range(16)
    ]
    (folder / "golden.jsonl").write_text("\n".join(map(json.dumps, golden)))
    return Settings(tmp_path / "home", folder, read_settings().cache)


def bring_in(settings: Settings, folder: Path) -> None:
    """Sixteen question-answer pairs, and as many corrections by a reviewer."""
    knowledge = [
        {
            "question": f"What helps with {name}?",
            "answer": f"Against {name} rest and drink water.",
            "topic": name,
        }
        for name in COMPLAINTS[:16]
    ]
    corrected = [
        {
            "messages": [
                {"role": "user", "content": f"What may I do about {name} at night?"},
                {"role": "assistant", "content": f"There is nothing at all to do about {name}."},
            ],
            "correction": f"With {name} you should sleep well and see a doctor soon.",
            "role": "reviewer",
            "rater": "rita",
            "topic": name,
        }
        for name in COMPLAINTS[16:]
    ]
    files = []
    for name, rows in (("knowledge", knowledge), ("feedback", corrected)):
        files.append(folder / f"{name}.jsonl")
        files[-1].write_text("\n".join(map(json.dumps, rows)))
    with Store.open(settings.store_file) as store:
        operations = Operations(settings, load_domain(settings), store)
        import_files(files, operations.import_part, lambda line: None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """The child processes, in their order."""
    found: list[subprocess.Popen] = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return found


def kill_once(trial: Path, started: list[subprocess.Popen]) -> threading.Thread:
    """Kill -9 the first process that trains `trial`, after a step."""

    def wait_and_kill() -> None:
        until = time.monotonic() + 300
        while not (trial / "progress.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.002)
        started[-1].kill()

    killer = threading.Thread(target=wait_and_kill)
    killer.start()
    return killer


def test_a_search_goes_on_where_it_was_cut_off(
    settings: Settings, tmp_path: Path, started: list[subprocess.Popen]
):
    """The trial that was under way is trained on to its end, then come others; no suite is drawn, weights go.

    A trial whose process is killed, as for want of memory, is tried once more.
    """
    bring_in(settings, tmp_path)
    objective = load_domain(settings)
    ask = open_door(settings, objective)
    plan = ask("begin_search", max_steps=3)
    assert plan["recipe"] == recipe_of(objective).model_dump(mode="json") and plan["settings"] is None
    shares = [tuple(mix["curation"].values()) for mix in plan["mixes"]]
    assert shares[0] == (0.5, 0.3) and len(shares) == len({mix["dataset_hash"] for mix in plan["mixes"]}) > 1

    folder = unfinished(settings.home)
    recipe = Recipe.model_validate(plan["recipe"])
    varied = space(recipe, plan["mixes"][0]["counts"]["preference"]["train"], len(plan["mixes"]))
    assert "dpo.beta" in varied and "mix" in varied
    number, _ = Study(folder.path / "journal.jsonl", varied, point_of(recipe, tuple(varied))).next()
    trial = RunFolder(folder.path / f"{folder.name}-{number:02d}")
    trial.path.mkdir()
    given = ("base_model", "base_model_name", "recipe", "max_steps")
    first = {key: plan["mixes"][0][key] for key in ("dataset", "dataset_hash")}
    trial.write("plan.json", {key: plan[key] for key in given} | first | {"run": trial.name, "looks": LOOKS})
    with pytest.raises(Cancelled, match="step 1"):
        make_candidate(trial.path, Interruption(asked=True))
    assert running(settings.home) is None, "nobody holds the lock"

    lines: list[str] = []
    killer = kill_once(folder.path / "t0001-01", started)
    found = tune(settings, objective, ask, Limit(2), lines.append)
    assert lines[0] == "t0001: going on where it stopped"
    killer.join()
    assert [child.returncode for child in started] == [0, -signal.SIGKILL, 0]
    ended = trials(folder)
    assert [(one["number"], one["present"]) for one in ended] == [(0, True), (1, False)]
    assert [line["step"] for line in trial.progress_lines() if line["stage"] == "sft"] == [1, 2, 3]
    assert [line["look"] for line in trial.progress_lines() if line["stage"] == "look"] == [1, 2]
    for one in ended:
        made = RunFolder(folder.path / f"t0001-{one['number']:02d}").read("run.json")
        assert one["outcome"] == "complete" and one["seconds"] > 0
        assert one["value"] == made["stages"][made["chosen"]]["validation_log_likelihood"]
        assert one["value"] == pytest.approx(sum(one["each"]) / len(one["each"]), abs=1e-5)
    assert ended[1]["settings"] != ended[0]["settings"]
    assert not list(folder.path.rglob("*.safetensors"))
    assert not (settings.home / "runs").exists() and not list(settings.home.rglob("suites.json"))
    with Store.open(settings.store_file) as store:
        assert store.log("suite") == []

    assert found["trials"] == [{k: v for k, v in one.items() if k != "each"} for one in ended]
    assert searches(settings.home) == [found] and unfinished(settings.home) is None
    assert found["best"] == max(ended, key=lambda one: one["value"])["number"] and found["present"] == 0
    assert found["gain"]["n"] == len(ended[0]["each"])


def finished_search(
    home: Path, best: list[float], before: dict | None = None
) -> tuple[RunFolder, dict, list]:
    """A search whose second trial reached `best` where the present settings reached -2 each."""
    data = home / "datasets" / "cafe"
    (data / "sft").mkdir(parents=True)
    clusters = pyarrow.table({"cluster": [f"c{n}" for n in range(len(best))]})
    pyarrow.parquet.write_table(clusters, data / "sft" / "validation.parquet")
    shares = {"knowledge_share": 0.6, "preference_share": 0.3}
    mixes = [
        {"dataset": str(data), "dataset_hash": "cafe", "curation": shares | {"preference_share": 0.15}},
        {"dataset": str(data), "dataset_hash": "cafe", "curation": shares},
    ]
    folder = RunFolder.new(home / "tuning", "t")
    plan = {"search": folder.name, "mixes": mixes, "settings": before}
    folder.write("plan.json", plan)

    def trial(number: int, mix: int, rate: float, each: list[float]) -> dict:
        value = sum(each) / len(each) if each else None
        return {
            "number": number,
            "present": number == 0,
            "settings": {"sft": {"learning_rate": rate}},
            "curation": mixes[mix]["curation"],
            "outcome": "complete" if each else "pruned",
            "because": None,
            "value": value,
            "each": each,
            "seconds": 1.0,
        }

    ended = [trial(0, 0, 1e-4, [-2.0] * len(best)), trial(1, 1, 2e-4, best), trial(2, 0, 3e-4, [])]
    return folder, plan, ended


GATE = Gate(primary="token_f1", resamples=1000)


def test_what_surely_wins_is_kept_and_named_by_the_next_round(settings: Settings, tmp_path: Path):
    """settings.json goes over the objective, over what was found before, into the plan and into run.json."""
    bring_in(settings, tmp_path)
    before = {"from": "t0000, trial 1", "training": {"dpo": {"beta": 0.3}}, "curation": {}}
    folder, plan, ended = finished_search(settings.home, [-1.5, -1.4] * 8, before)
    document = conclude(settings, GATE, folder, plan, ended)
    assert (document["best"], document["present"], document["kept"]) == (1, 0, True)
    assert document["gain"]["difference"] == pytest.approx(0.55) and document["gain"]["low"] > 0.5
    objective = load_domain(settings)
    with Store.open(settings.store_file) as store:
        began = Operations(settings, objective, store).begin_round(max_steps=1)
    assert began["settings"] == {
        "from": "t0001, trial 1",
        "training": {"dpo": {"beta": 0.3}, "sft": {"learning_rate": 2e-4}},
        "curation": {"knowledge_share": 0.6, "preference_share": 0.3},
    }
    told = recipe_of(objective).model_dump()
    assert began["recipe"] == told | {
        "sft": told["sft"] | {"learning_rate": 2e-4},
        "dpo": told["dpo"] | {"beta": 0.3},
    }
    run = settings.home / "runs" / began["run"]
    make_candidate(run, Interruption())
    assert json.loads((run / "run.json").read_text())["settings"] == began["settings"]


@pytest.mark.parametrize("best", [[-2.5] * 16, [-1.0] * 8 + [-2.9] * 8])
def test_what_may_be_chance_is_not_kept(tmp_path: Path, best: list[float]):
    """Settings that are no better, or better only by some answers, change nothing."""
    home = Settings(tmp_path, tmp_path, tmp_path)
    document = conclude(home, GATE, *finished_search(tmp_path, best))
    assert document["kept"] is False and not (tmp_path / "settings.json").exists()
    assert searches(tmp_path) == [document]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"training": {}}', "settings.json: from: is missing"),
        ('{"from": "by hand", "training": {"sft": {"epoch": 2}}}', "training.sft.epoch: unknown key"),
        ('{"from": "by hand", "curation": {"min_words": 2}}', "curation.min_words: unknown key"),
        ("rubbish", "settings.json: the whole: Invalid JSON"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: Settings, text: str, says: str):
    """The file and the key are named, and what to do."""
    settings.home.mkdir()
    (settings.home / "settings.json").write_text(text)
    with pytest.raises(RatchetError, match="remove it to go by the objective") as refused:
        read_found(settings.home, load_domain(settings))
    assert says in str(refused.value)


def test_settings_by_hand_are_enough(settings: Settings):
    """Whoever writes the file says where it comes from; what it leaves out stays the objective's."""
    settings.home.mkdir()
    objective = load_domain(settings)
    assert read_found(settings.home, objective) is None
    (settings.home / "settings.json").write_text('{"from": "by hand", "training": {"lora": {"rank": 4}}}')
    found = read_found(settings.home, objective)
    assert found == FoundSettings(source="by hand", training={"lora": {"rank": 4}})
    assert recipe_of(found.over(objective)).lora.rank == 4
    assert found.over(objective).curation == objective.curation


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("search = { every_rounds = 0 }", "training.search.every_rounds"),
        ("search = { trials = 4 }", "training.search.every_rounds: is missing"),
        ("search = { every_rounds = 4, suite = 1 }", "training.search.suite: unknown key"),
    ],
)
def test_a_wrong_search_in_the_objective_is_wrong_use(settings: Settings, line: str, says: str):
    """The load names the key."""
    file = settings.objective / "objective.toml"
    file.write_text(file.read_text().replace("max_length = 256", f"max_length = 256\n{line}"))
    with pytest.raises(UsageError, match=says):
        load_domain(settings)


def test_without_validation_answers_nothing_is_searched(settings: Settings, tmp_path: Path):
    """The refusal says what would help."""
    file = settings.objective / "objective.toml"
    file.write_text(file.read_text().replace("validation_share = 0.25", "validation_share = 0"))
    bring_in(settings, tmp_path)
    with pytest.raises(RatchetError, match="no supervised row is on the validation side"):
        open_door(settings, load_domain(settings))("begin_search", max_steps=None)
    assert unfinished(settings.home) is None


def test_a_new_round_searches_first_when_one_is_due(settings: Settings):
    """After so many finished rounds, never before one that goes on; a search that fails leaves the settings."""
    file = settings.objective / "objective.toml"
    line = "search = { every_rounds = 2, trials = 3 }"
    file.write_text(file.read_text().replace("max_length = 256", f"max_length = 256\n{line}"))
    objective, asked, lines = load_domain(settings), [], []

    def ask(operation: str, **arguments: object) -> None:
        asked.append((operation, arguments))
        raise RatchetError("the store is away")

    def finish() -> RunFolder:
        run = RunFolder.new(settings.home / "runs")
        run.write("plan.json", {})
        run.write("decision.json", {})
        return run

    finish()
    search_if_due(settings, objective, ask, lines.append)
    assert asked == []
    last = finish()
    (last.path / "decision.json").rename(last.path / "later.json")
    search_if_due(settings, objective, ask, lines.append)
    assert asked == []
    (last.path / "later.json").rename(last.path / "decision.json")
    search_if_due(settings, objective, ask, lines.append)
    assert asked == [("begin_search", {"max_steps": None})]
    assert lines == ["the search for settings failed, the round goes by the present ones: the store is away"]


def test_a_search_that_runs_is_no_round(tmp_path: Path):
    """It holds the lock under its own name: the schedule counts it as no round, and it can be cancelled."""
    finished_search(tmp_path, [-1.0])
    stopped = RunFolder.new(tmp_path / "runs")
    stopped.write("plan.json", {})
    with only_round(tmp_path, "oz", SEARCH):
        assert running(tmp_path) == {"round": None, "search": "t0001", "trials_ended": 0, "stage": "search"}
        assert Holder.read(tmp_path) is None and Holder.latest(tmp_path).pid == os.getpid()
    assert running(tmp_path) is None
    with only_round(tmp_path, "oz"):
        assert running(tmp_path) is None, "the round goes on"
        (stopped.path / "decision.json").write_text("{}")
        assert running(tmp_path)["search"] == "t0001", "the round searches first"


def test_an_erasure_ends_a_search_on_what_is_erased(tmp_path: Path):
    """The trial that was under way goes with its weights, the numbers of the others stay, nothing goes on."""
    folder, _, ended = finished_search(tmp_path, [-1.0])
    for number, name in enumerate(("trial.json", "weights")):
        trial = RunFolder(folder.path / f"{folder.name}-{number:02d}")
        trial.path.mkdir()
        trial.write(name, ended[0])
    left = folder.path / f"{folder.name}-00" / "dpo"  # by a kill between the trial's numbers and its clearing
    left.mkdir()
    at = datetime(2026, 11, 20, tzinfo=UTC)
    payload = {"person": "somebody", "datasets": ["cafe"], "versions": [], "suites": []}
    assert unfinished(tmp_path) is not None
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(Event(new_id(at), "erase", "oz", payload, at))
        clear(tmp_path, store, survey(tmp_path, store, "ann"))
    assert [one["number"] for one in trials(folder)] == [0]
    assert not (folder.path / f"{folder.name}-01").exists() and unfinished(tmp_path) is None
    assert not left.exists()


def test_a_search_whose_start_is_gone_does_not_go_on(tmp_path: Path):
    """An erasure that took the champion of a warm start does not stop every later search."""
    folder, plan, _ = finished_search(tmp_path, [-1.0])
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    folder.write("plan.json", plan | {"start": {"adapter": str(adapter)}})
    assert unfinished(tmp_path) is not None
    adapter.rmdir()
    assert unfinished(tmp_path) is None


@pytest.mark.parametrize(
    ("variable", "says"),
    [("RATCHET_REPORT_TO", "RATCHET_REPORT_TO names 'nobody'"), ("RATCHET_LAUNCHER", "begins with 'nobody'")],
)
def test_tracker_or_launcher_that_is_not_there_stops_the_search(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, says: str
):
    """It stands in the way of every trial, so none is called failed; mended, the search goes on."""
    bring_in(settings, tmp_path)
    objective = load_domain(settings)
    monkeypatch.setenv(variable, "nobody")
    with pytest.raises(RatchetError, match=says):
        tune(settings, objective, open_door(settings, objective), Limit(1, max_steps=1), lambda line: None)
    assert trials(unfinished(settings.home)) == []
