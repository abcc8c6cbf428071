"""A training row that asks or teaches what an evaluation asks stops the build, by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.errors import RatchetError
from feedback.likeness.leaks import check_leaks, taught
from feedback.records import Example

QUESTION = "How long should an adult rest after a mild concussion?"
ANSWER = (
    "Most adults feel better after one or two days of rest. Start light activity when the headache fades, and "
    "see a doctor at once if vomiting, confusion or drowsiness begins or the headache becomes worse than it was."
)
EVALUATED = [("golden g-7", QUESTION, ANSWER), ("golden g-8", "What is a stye?", "A sore lump on an eyelid.")]


def row(
    *asked: str, chosen: str | None = "Drink some water.", kind="sft", label=None, rejected=None
) -> Example:
    """A row with these questions."""
    prompt = tuple({"role": "user", "content": text} for text in asked)
    return Example(
        id="0123456789abcdef",
        kind=kind,
        prompt=({"role": "system", "content": QUESTION}, *prompt),
        chosen=chosen,
        rejected=rejected,
        label=label,
        side="train",
        rule="correction",
        origin="feedback",
        sources=("s1", "s2"),
        cluster="c",
    )


@pytest.mark.parametrize(
    "planted",
    [
        row(QUESTION),
        row("how long should an ADULT rest, after a mild concussion"),
        row("I fell.", QUESTION),
        row("How long should an adult", "rest after a mild concussion?"),
        row("Why?", chosen=ANSWER),
        row("Why?", chosen=ANSWER + " Rest."),
        row("Why?", chosen=ANSWER, kind="preference", rejected="No."),
        row("Why?", chosen=ANSWER, kind="unpaired", label=True),
    ],
)
def test_a_planted_row_stops_the_build_by_name(planted):
    """Both the row and the evaluation item are named, with what to do."""
    with pytest.raises(RatchetError, match=r"0123456789ab \(correction, from s1, s2\).*'golden g-7'; remove"):
        check_leaks([row("Fine?"), planted], EVALUATED)


@pytest.mark.parametrize(
    "innocent",
    [
        row("How long should a child rest after a mild concussion?"),
        row("What is a sty?", chosen="A sore lump on an eyelid."),
        row("Why?", chosen=ANSWER, kind="unpaired", label=False),
        row("Why?", chosen="Wait.", kind="preference", rejected=ANSWER),
        row("Why?", chosen=None),
        row("?!"),
    ],
)
def test_what_is_not_taught_stops_nothing(innocent):
    """Other questions, short answers that are alike by form, and answers that are taught against."""
    check_leaks([innocent], EVALUATED)


@given(st.lists(st.sampled_from(["rest", "sleep", "eat", "doctor", "the", "a"]), min_size=1, max_size=8))
def test_an_equal_question_is_always_found(found):
    """However short or repetitive it is."""
    question = " ".join(found)
    with pytest.raises(RatchetError, match="asks the question of the evaluation item 'x'"):
        check_leaks([row(question.upper() + "?")], [("y", "Nothing like it", ""), ("x", question, "")])


def test_all_answers_that_a_row_teaches_are_named():
    """Equal and nearly equal ones, each by its name; a row that only judges an answer as poor teaches nothing."""
    answers = {"one": ANSWER, "two": ANSWER + " Rest.", "three": ANSWER.upper(), "other": QUESTION * 3}
    assert taught([row("Why?", chosen=ANSWER)], answers) == {"one", "two", "three"}
    assert taught([row("Why?", chosen=ANSWER, kind="unpaired", label=False)], answers) == set()
    assert taught([row("Why?", chosen="Rest.")], {"short": "Rest."}) == set()
