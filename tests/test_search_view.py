"""A search for settings as people see it: a plot, what each trial changed, and whether the best surely gains."""

import re
from pathlib import Path

import pytest

from app.reports import Reports
from app.run_folder import RunFolder
from app.web.round_report import CASES, round_report
from app.web.search_view import search_view
from tests.accessibility import serious
from tests.browsing import chromium
from tests.test_round_report import ALIEN, AT, GATE, VOICES, finish, freeze, words

SHARES = {"knowledge_share": 0.6, "preference_share": 0.15}


def trial(
    number: int, value: float | None, rate: float, outcome: str = "complete", shares: dict = SHARES
) -> dict:
    settings = {"sft": {"learning_rate": rate, "batch_size": 8}}
    ended = {"number": number, "present": number == 0, "outcome": outcome, "because": None}
    return ended | {"settings": settings, "curation": shares, "value": value, "seconds": 60.0}


FOUND = {
    "search": "t0002",
    "dataset": "da7a",
    "trials": [
        trial(0, -2.1, 5e-4),
        trial(2, None, 2e-3, "pruned"),
        trial(3, -2.0, 7.5e-4, shares=SHARES | {"knowledge_share": 0.4}),
    ],
    "present": 0,
    "best": 3,
    "gain": {"difference": 0.1, "low": 0.05, "high": 0.15, "n": 32},
    "kept": True,
    "finished_rounds": 4,
}
USED = {"from": "t0002, trial 3", "training": {"sft": {"learning_rate": 7.5e-4}}, "curation": {}}


@pytest.fixture
def document(tmp_path: Path) -> str:
    """The report of a round that went by what the search found."""
    run = finish(tmp_path, "r0001", "base", "v0001-aaaaaaaa")
    freeze(tmp_path)
    run.write("plan.json", run.read("plan.json") | {"settings": USED})
    search = tmp_path / "tuning" / "t0002"
    search.mkdir(parents=True)
    RunFolder(search).write("search.json", FOUND)
    return round_report("Health", GATE, Reports(tmp_path, GATE).findings("r0001", CASES, str), VOICES, AT)


def test_each_trial_is_shown_with_what_it_changed():
    """The best and the present are marked, one that was given up has no dot; differences alone are listed."""
    shown = search_view(FOUND)
    assert "0 present -2.1000" in words(shown) and "3 best -2.0000" in words(shown)
    assert "2 given up on its way" in words(shown) and shown.count("<b style=") == 2
    assert "<li value='3'>sft.learning_rate 0.00075, knowledge_share 0.4</li>" in shown
    assert "gains +0.1000 (+0.0500 to +0.1500, 32 answers)" in shown and "go by the best" in shown


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"kept": False}, "That may be chance: nothing was kept."), ({"best": 0}, "stayed the best")],
)
def test_what_was_not_kept_is_said(changed: dict, says: str):
    """Nobody is left to think that later rounds go by it."""
    shown = search_view(FOUND | changed)
    assert says in shown and "Later rounds" not in shown


def test_a_report_names_the_search_that_its_settings_come_from(document: str):
    """Source, settings and plot stand between what was learnt and the answers."""
    said = words(document)
    assert "From t0002, trial 3: sft.learning_rate 0.00075." in said
    order = ("On the validation side", "Settings From", "t0002: mean log-likelihood", "Largest wins")
    assert sorted(order, key=said.index) == list(order)


def test_settings_by_hand_have_no_search(tmp_path: Path):
    """They are named all the same, as text; without any there is no such section."""
    run = finish(tmp_path, "r0001", "base", "v0001-aaaaaaaa")

    def report() -> str:
        return round_report("Health", GATE, Reports(tmp_path, GATE).findings("r0001", CASES, str), VOICES, AT)

    assert "id='settings'" not in report()
    by_hand = {"from": ALIEN, "training": {"max_length": 256}, "curation": {}}
    run.write("plan.json", run.read("plan.json") | {"settings": by_hand})
    said = re.search(r"<section id='settings'.*?</section>", report(), re.DOTALL)[0]
    assert "max_length 256" in said and "<script>" not in said and "<table" not in said


def test_it_reads_on_a_phone_and_has_no_barrier(document: str, tmp_path: Path):
    """In a real browser: one column, no serious barrier, the settings opened by a key."""
    (tmp_path / "report.html").write_text(document)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto((tmp_path / "report.html").as_uri())
        page.locator("#settings summary").focus()
        page.keyboard.press("Enter")
        assert page.locator("#settings li").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert serious(page) == []
