"""What is seen of a training while it runs: loss, learning rate, gradient norm, pace and time left."""

import pytest

from app.jobs import _in_words
from app.reports import Report
from app.web.rounds_view import live, searching
from tests.test_round_report import words

STEP = {
    "stage": "sft",
    "step": 2,
    "steps": 8,
    "loss": 2.34567,
    "learning_rate": 0.000417,
    "grad_norm": 1.2345,
}
STEP |= {"tokens_per_s": 137.4, "seconds_left": 90.0, "elapsed_s": 30.0}
ASKED = {"stage": "evaluate base on golden", "step": 3, "steps": 9, "elapsed_s": 2.0}
SAID = ("loss 2.346", "learning rate 4.2e-04", "gradient norm 1.23", "137 tokens/s")


def running(*lines: dict) -> Report:
    """A round that has reported these lines."""
    return Report("r0001", {"champion": "base"}, None, None, None, True, [], lines, False)


def test_terminal_says_all_figures_of_a_step():
    """One line has them; a line about anything else has none."""
    assert _in_words(STEP) == ", ".join(("sft 2/8", *SAID, "90 s left"))
    assert _in_words(ASKED) == "evaluate base on golden 3/9"


def test_rounds_page_shows_their_course():
    """Gradient and learning rate stand below the loss, with where they began and are, of the stage that trains."""
    earlier = STEP | {"step": 1, "grad_norm": 3.5, "learning_rate": 5e-4}
    shown = live(running(earlier, STEP))
    said = words(shown)
    assert shown.count("<svg class='curve'") == 3
    assert "Loss on answers 2.346" in said and "2 of 8 · 2 min left in this step · 137 tokens/s" in said
    assert "Gradient norm 1.23 3.5 at step 1 step 2 of 8" in said
    assert "Learning rate 4.2e-04 5.0e-04 at step 1 step 2 of 8" in said
    pairs = STEP | {"stage": "dpo", "step": 1, "steps": 4, "grad_norm": 7.0}
    said = words(live(running(STEP, pairs)))
    assert "Loss on answers" in said and "Gradient norm 7 7 at step 1 step 1 of 4" in said


@pytest.mark.parametrize("lines", [(), (STEP, {"stage": "choose", "step": 1, "steps": 2, "elapsed_s": 1.0})])
def test_what_does_not_train_has_no_gradient(lines: tuple[dict, ...]):
    """Before the first step and after the last there is no such curve."""
    assert "Gradient norm" not in live(running(*lines))


def test_card_of_a_search_says_them_of_its_trial():
    """All in a line; a search between two trials says only how many ended."""
    shown = words(searching({"search": "t0001", "trials_ended": 3} | STEP))
    assert " · ".join(SAID) in shown and "3 trials ended 2 min left in this step loss" in shown
    between = words(searching({"search": "t0001", "trials_ended": 1, "stage": "search"}))
    assert between.endswith("1 trial ended ")
