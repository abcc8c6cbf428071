"""A judge is asked in both orders, and counts only where it agrees with reviewers."""

import json
from dataclasses import dataclass, replace

import pytest

from eval.exam import Evaluation
from eval.gate import Comparison, Decision, beside_judge
from eval.judge import Judged, compare, hear, prompt, read_reply, rival_answers
from eval.objective import Gate, JudgePlan
from eval.suites import Item, Suite
from feedback.errors import RatchetError
from feedback.pairs import Pair

GATE = Gate(primary="similarity", resamples=1000)
PLAN = JudgePlan(model="local", floor=0.4, margin=0.3, items=60)
ASKED = ({"role": "user", "content": "What is gout?"},)
WON = Decision(
    "promote", ("similarity rose: it wins",), {"similarity": Comparison(0, 1, 1, 0.5, 1.5, 60, 60)}
)


@dataclass
class Always:
    """Says the same of every pair."""

    word: str

    def verdicts(self, pairs, progress):
        return [self.word] * len(pairs)


class Sleeping:
    """Must not be asked."""

    def verdicts(self, pairs, progress):
        raise AssertionError("it was asked")


class Longest:
    """Prefers the longer answer."""

    def verdicts(self, pairs, progress):
        self.asked = [(pair.first, pair.second) for pair in pairs]
        lengths = [(len(pair.first), len(pair.second)) for pair in pairs]
        return ["first" if one > other else "second" if other > one else "tie" for one, other in lengths]


def pair(name, first, second, preferred=None):
    return Pair(name, name, ASKED, first, second, preferred, "choices" if preferred else "")


def reviewed(count=40):
    """Reviewers prefer the longer answer, in either place."""
    long, short = "Gout is a kind of arthritis.", "Gout."
    return [
        pair(f"r{n:02}", long, short, "first") if n % 2 else pair(f"r{n:02}", short, long, "second")
        for n in range(count)
    ]


def rivals(worse=30, better=10):
    """The candidate, who stands second, is shorter in the first ones."""
    return [pair(f"i{n:02}", "A long one.", "Short.") for n in range(worse)] + [
        pair(f"i{n:02}", "Short.", "A long one.") for n in range(worse, worse + better)
    ]


def silent(*_):
    """Nobody looks at the progress."""


def test_a_win_holds_in_both_orders_only():
    """Who always says "first" has said nothing; who is not understood has not either."""
    two = [pair("a", "Gout is an arthritis.", "Gout."), pair("b", "Gout.", "Gout is an arthritis.")]
    assert [o.verdict for o in compare(Longest(), two, silent)] == ["first", "second"]
    for word in ("first", "second", "tie", "unclear"):
        assert [o.verdict for o in compare(Always(word), two, silent)] == ["tie", "tie"]


def test_of_equal_answers_nobody_is_asked():
    """They are a tie, and count as one."""
    judge = Longest()
    found = compare(judge, [pair("a", "Gout.", "Gout."), pair("b", "Gout!", "Gout, a disease")], silent)
    assert [opinion.verdict for opinion in found] == ["tie", "second"]
    assert judge.asked == [("Gout!", "Gout, a disease"), ("Gout, a disease", "Gout!")]
    assert compare(Always("first"), [pair("a", "Gout.", "Gout.")], silent)[0].verdict == "tie"


def test_a_judge_that_leaves_something_out_is_refused():
    """A verdict too few cannot be laid beside the pairs."""

    class Short(Longest):
        def verdicts(self, pairs, progress):
            return super().verdicts(pairs, progress)[1:]

    with pytest.raises(RatchetError, match="answered 3 of 4 questions"):
        compare(Short(), rivals(1, 1), silent)


def test_a_judge_that_agrees_is_licensed_and_vetoes():
    """What it finds worse by more than the margin is not promoted, and the reasons say why."""
    judged = hear(Longest(), PLAN, reviewed(), rivals(), GATE, silent)
    assert (judged.licensed, judged.agreement.kappa, judged.contradicted) == (True, 1.0, 0)
    decision = beside_judge(WON, judged, GATE)
    assert decision.decision == "refuse"
    found = decision.metrics["judge"]
    assert (found.champion, found.candidate, found.difference, found.n) == (0.0, -0.5, -0.5, 40)
    assert found.low < -0.5 < found.high < 0
    assert decision.reasons == (
        *WON.reasons,
        "the judge local prefers the candidate 10 times and the champion 30 times, -0.500 (95 % interval "
        f"{found.low:.3f} to {found.high:.3f}, 40 questions): more than its margin of 0.300 may be lost; it agrees "
        "with reviewers: kappa 1.00, 95 % interval 1.00 to 1.00, 40 pairs, floor 0.4",
    )


def test_a_licensed_judge_lets_a_better_candidate_pass():
    """And it promotes nobody whom the gate refused."""
    judged = hear(Longest(), PLAN, reviewed(), rivals(10, 30), GATE, silent)
    decision = beside_judge(WON, judged, GATE)
    assert (decision.decision, decision.metrics["judge"].candidate) == ("promote", 0.5)
    assert "within its margin of 0.300; it agrees" in decision.reasons[-1]
    refused = replace(WON, decision="refuse")
    assert beside_judge(refused, judged, GATE).decision == "refuse"
    assert beside_judge(replace(WON, decision="not_enough_data"), judged, GATE).decision == "not_enough_data"


def test_a_judge_without_agreement_is_reported_and_ignored():
    """Whatever it says of the candidate: always the same place, or the opposite of what reviewers say."""
    turned = [replace(p, preferred="second" if p.preferred == "first" else "first") for p in reviewed()]
    for judge, known, kappa in (
        (Always("first"), reviewed(), 0.0),
        (Longest(), turned, -1.0),
        (Longest(), reviewed(9), 1.0),
    ):
        judged = hear(judge, PLAN, known, rivals(40, 0), GATE, silent)
        assert not judged.licensed
        assert judged.agreement.kappa == kappa
        decision = beside_judge(WON, judged, GATE)
        assert decision.decision == "promote"
        assert f"reported only, for {judged.why}" in decision.reasons[-1]
        assert decision.metrics["judge"].n == 40


def test_a_judge_whom_nothing_could_license_is_not_asked():
    """Neither its time nor an endpoint's look at the answers is worth a verdict that cannot count."""
    judged = hear(Sleeping(), PLAN, [], rivals(40, 0), GATE, silent)
    assert (judged.licensed, judged.scores, judged.agreement) == (False, {}, None)
    assert judged.why == "no reviewer has compared two answers since the last promotion"


def test_a_judge_that_was_not_heard_changes_nothing():
    """Only the reason is added."""
    decision = beside_judge(WON, Judged.unheard(PLAN, "it is asleep"), GATE)
    assert decision == replace(WON, reasons=(*WON.reasons, "the judge local was not heard: it is asleep"))


def test_at_most_so_many_are_asked_about():
    """The same ones each time, whatever their order; what contradicts itself or is unclear is counted."""
    plan = PLAN.model_copy(update={"items": 12})
    judged = hear(Always("first"), plan, reviewed(), rivals(), GATE, silent)
    again = hear(Always("first"), plan, reviewed()[::-1], rivals()[::-1], GATE, silent)
    assert judged == again
    assert (len(judged.verdicts), len(judged.scores), judged.contradicted) == (12, 12, 24)
    assert hear(Always("unclear"), plan, reviewed(), rivals(), GATE, silent).unclear == 24


def test_what_it_said_is_kept_without_words():
    """judge.json holds ids, verdicts and numbers, and reads back the same."""
    judged = hear(Longest(), PLAN, reviewed(), rivals(), GATE, silent)
    document = json.dumps(judged.to_json(), allow_nan=False)
    assert Judged.from_json(json.loads(document)) == judged
    assert "arthritis" not in document and "long one" not in document
    unheard = Judged.unheard(PLAN, "it is asleep")
    assert Judged.from_json(json.loads(json.dumps(unheard.to_json()))) == unheard


def test_both_answers_to_each_item_of_the_primary_suite_are_compared():
    """The champion's first, with what was asked and without the system prompt."""
    said = ({"role": "system", "content": "Be careful."}, *ASKED)
    items = tuple(Item(f"i{n}", "asked", f"c{n}", said, reference="") for n in range(3))
    suites = [
        Suite("known", "text", ("general_text",), 1, ()),
        Suite("asked", "questions", ("similarity",), 3, items),
    ]

    def evaluation(version, answers):
        return Evaluation(version, "tiny", {}, {"asked": {"answers": answers}, "known": {}})

    champion = evaluation("base", {"i0": "Old.", "i1": "Old.", "i2": "Old."})
    candidate = evaluation("v1", {"i0": "New.", "i1": "New."})
    assert rival_answers(suites, champion, candidate, GATE) == [
        Pair("i0", "c0", ASKED, "Old.", "New."),
        Pair("i1", "c1", ASKED, "Old.", "New."),
    ]


def test_the_question_comes_last():
    """After the whole conversation and both answers, each under its letter."""
    talk = (*ASKED, {"role": "assistant", "content": "A disease."}, {"role": "user", "content": "Of what?"})
    assert prompt("Which?", Pair("a", "a", talk, "Joints.", "Bones.")) == (
        {
            "role": "user",
            "content": "User: What is gout?\n\nAssistant: A disease.\n\nUser: Of what?\n\n"
            "Answer A:\nJoints.\n\nAnswer B:\nBones.\n\nWhich?",
        },
    )


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", "first"),
        (" **B**.", "second"),
        ("Answer B is better than A", "second"),
        ("Tie", "tie"),
        ("tie, though A is longer", "tie"),
        ("Neither; both are a disease", "unclear"),
        ("", "unclear"),
        ("ABBA", "unclear"),
    ],
)
def test_the_first_word_that_says_it_is_taken(reply, verdict):
    """A letter that stands alone, or tie; anything else is unclear."""
    assert read_reply(reply) == verdict
