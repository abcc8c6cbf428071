"""What people prefer and like reaches the suites and the status of an installation, and never its training rows."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.operations import Operations
from app.run_folder import RunFolder
from app.settings import Settings
from app.web.rounds_view import liked
from eval.objective import load_objective
from eval.suites import Suite
from feedback.compiling.dataset import open_dataset
from feedback.proportions import Adjusted
from feedback.records import Signal, Turn, new_id
from feedback.satisfaction import Satisfaction
from feedback.store import Store
from tests.test_circle import GOLDEN
from tests.test_levers import corrected, installation

PAIRS = '[suites.preferred]\nkind = "pairs"\nitems = 4\nmetrics = ["preference"]\n'
POOR = "Nobody knows at all."


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The tiny domain, with a suite of pairs."""
    found = installation(tmp_path)
    with (found.objective / "objective.toml").open("a") as file:
        file.write(PAIRS)
    return found


def ask(store: Store, question: str, *, user="ann", answer=POOR, version="base", **said: dict) -> None:
    """An answer that `user` was given, and what they said about it, by kind."""
    now = datetime.now(UTC)
    asked = ({"role": "user", "content": question},)
    turn = Turn(new_id(now), new_id(now), user, asked, answer, version, now)
    store.add(
        turn, *(Signal(new_id(now), turn.id, user, "user", kind, value, now) for kind, value in said.items())
    )


def test_held_out_pairs_are_asked_and_never_trained_on(settings: Settings):
    """A round freezes them in a suite; no row of its dataset comes from them; whoever is behind one can be erased."""
    with Store.open(settings.store_file) as store:
        corrected(store)
        known = {signal.id for signal in store.records(Signal)}
        ask(store, GOLDEN[0], choice={"alternatives": ["Sleep with a warm pillow."], "choice": 1})
        ask(store, GOLDEN[1], answer="Take a long walk.", rating={"rating": 1})
        ask(store, GOLDEN[1], user="bob", rating={"rating": -1})
        operations = Operations(settings, load_objective(settings.objective), store)
        plan = operations.begin_round(None)
        run = RunFolder(settings.home / "runs" / plan["run"])
        suite = next(s for s in map(Suite.from_json, run.read("suites.json")) if s.name == "preferred")
        trained = set(open_dataset(Path(plan["dataset"]))["sources"]["feedback"])
        pairs = {(item.reference, item.rejected) for item in suite.items}
        assert pairs == {("Sleep with a warm pillow.", POOR), ("Take a long walk.", POOR)}
        sources = {source for item in suite.items for source in item.sources}
        assert sources == {signal.id for signal in store.records(Signal)} - known
        assert trained and not sources & trained

        operations.erase("bob", "oz")
        assert not run.has("suites.json")


def test_status_compares_versions_on_the_same_mix_of_topics(settings: Settings):
    """As soon as a compilation has read what was asked; until then it says the plain shares only."""
    with Store.open(settings.store_file) as store:
        for version, liked_ones in (("base", 4), ("v1", 1)):
            for number in range(5):
                up = number < liked_ones
                ask(store, GOLDEN[0 if up else 1], version=version, rating={"rating": 1 if up else -1})
        operations = Operations(settings, load_objective(settings.objective), store)
        plain = operations.status()["satisfaction"]
        assert [(one["version"], one["up"], one["rated"]) for one in plain] == [("base", 4, 5), ("v1", 1, 5)]
        assert [one["adjusted"] for one in plain] == [None, None]
        operations.compile()
        base, v1 = operations.status()["satisfaction"]
    assert (base["share"], v1["share"]) == (0.8, 0.2)
    assert base["adjusted"]["share"] == v1["adjusted"]["share"] == pytest.approx(0.5)
    assert base["adjusted"]["covered"] == v1["adjusted"]["covered"] == 1


def test_the_rounds_page_shows_both_shares():
    """The plain one with its interval, the adjusted one beside it, and how much of the mix it speaks of."""
    shown = liked(
        [
            Satisfaction("base", 7, 10),
            Satisfaction("v1", 6, 10, Adjusted(0.8, 0.5, 0.9, 1.0)),
            Satisfaction("v2", 5, 10, Adjusted(0.75, 0.5, 0.9, 0.62)),
        ],
        "v2",
    )
    assert shown.count("on the ") == 2
    assert "80% on the same mix of topics, 50% to 90%" in shown
    assert "75% on the 62% of that mix in which it was rated, 50% to 90%" in shown
