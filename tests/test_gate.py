"""The gate promotes what surely wins and surely loses nothing that counts, and says why."""

import dataclasses
import json
import random

import numpy as np
import pytest

from eval.bootstrap import interval
from eval.exam import Evaluation
from eval.gate import Decision, beside_lean, decide
from eval.objective import Gate, Guard
from eval.suites import Item, Suite
from feedback.errors import RatchetError

GATE = Gate(
    primary="similarity",
    resamples=2000,
    guards={"token_f1": Guard(margin=0.02, spread=0.1), "retention": Guard(margin=0.1, spread=0.3)},
)
N = 240
CHANCE = np.random.default_rng(7)
BEFORE = CHANCE.normal(0.65, 0.15, N)
NOISE = CHANCE.normal(0, 0.1, N)
NOISE -= NOISE.mean()


def asked(n=N, wanted=N, per_cluster=1):
    items = tuple(
        Item(f"i{number:03}", "asked", f"c{number // per_cluster}", messages=(), reference="")
        for number in range(n)
    )
    return Suite("asked", "questions", ("similarity", "token_f1"), wanted, items)


def known(n=60):
    items = tuple(Item(f"k{number:03}", "known", f"k{number}", messages=()) for number in range(n))
    return Suite("known", "multiple_choice", ("retention",), 60, items)


def corrected(known_ones=20, new_ones=10):
    items = tuple(
        Item(f"e{number:03}", "corrected", f"e{number}", messages=(), known_to_champion=number < known_ones)
        for number in range(known_ones + new_ones)
    )
    return Suite("corrected", "corrections", ("corrections_honoured", "corrections_lean"), 30, items)


def evaluation(version, suites, scores):
    """`scores` gives each metric's numbers in the order of the items."""
    results = {
        suite.name: {
            "hash": suite.hash,
            "answers": {},
            "clusters": {item.id: item.cluster for item in suite.items},
            "scores": {
                metric: {
                    item.id: float(value) for item, value in zip(suite.items, scores[metric], strict=True)
                }
                for metric in suite.metrics
            },
            "figures": {},
        }
        for suite in suites
    }
    return Evaluation(version, "tiny", {"answer_tokens": 120}, results)


def judge(similarity=0.0, token_f1=0.0, retention=0.0, suites=None, gate=GATE, before=None, after=None):
    """The decision when each metric changes by so much, a number or one number an item."""
    suites = suites or (asked(), known())
    sizes = {metric: len(suite.items) for suite in suites for metric in suite.metrics}
    old = {metric: np.resize(BEFORE, size) for metric, size in sizes.items()} | (before or {})
    changes = {"similarity": similarity, "token_f1": token_f1, "retention": retention}
    new = {metric: old[metric] + changes.get(metric, 0.0) for metric in sizes} | (after or {})
    return decide(evaluation("base", suites, old), evaluation("v1", suites, new), suites, gate)


def test_an_equal_candidate_is_refused():
    """Nothing gained is no win, whatever the guards say."""
    decision = judge()
    assert decision.decision == "refuse"
    assert decision.reasons[0] == (
        "similarity changed by 0.000 (95 % interval 0.000 to 0.000, 240 questions): no sure win"
    )
    assert decision.metrics["similarity"].difference == 0


def test_a_clear_gain_is_promoted():
    """Both bounds above zero, guards within their margins."""
    decision = judge(similarity=NOISE + 0.036)
    found = decision.metrics["similarity"]
    assert decision.decision == "promote"
    assert 0 < found.low < found.difference < found.high
    assert found.difference == pytest.approx(0.036)
    assert found.n == 240
    assert decision.reasons == (
        f"similarity rose by 0.036 (95 % interval {found.low:.3f} to {found.high:.3f}, 240 questions): it wins",
        "token_f1 lost nothing, within its margin of 0.020 (95 % interval 0.000 to 0.000, 240 questions)",
        "retention lost nothing, within its margin of 0.100 (95 % interval 0.000 to 0.000, 60 questions)",
        f"80 % of the time so many questions would show a gain of {decision.detectable:.3f}",
    )


def test_a_gain_with_a_loss_on_a_guard_is_refused():
    """What may have been lost is said in numbers."""
    decision = judge(similarity=NOISE + 0.036, token_f1=NOISE - 0.02)
    low = decision.metrics["token_f1"].low
    assert decision.decision == "refuse"
    assert f"token_f1 may have lost up to {-low:.3f}, more than its margin of 0.020" in decision.reasons[1]


def test_a_loss_within_the_margin_is_accepted():
    """A guard tolerates what its margin says."""
    decision = judge(similarity=NOISE + 0.036, token_f1=NOISE / 20 - 0.01)
    assert decision.decision == "promote"
    assert "may have lost up to 0.01" in decision.reasons[1]


def test_a_sure_loss_is_called_one():
    """The primary's interval below zero."""
    decision = judge(similarity=NOISE - 0.05)
    assert decision.decision == "refuse"
    assert "similarity fell by 0.050" in decision.reasons[0]
    assert decision.reasons[0].endswith("it loses")


def test_noise_is_seldom_promoted():
    """Of 400 candidates that are equal but for noise at most some 5 % win, also with twelve clusters."""
    random = np.random.default_rng(3)
    for clusters, items in ((60, 240), (12, 24)):
        names = [f"c{number % clusters}" for number in range(items)]
        shared = random.normal(0, 0.1, (clusters, 400))[[number % clusters for number in range(items)]]
        low, _ = interval(shared + random.normal(0, 0.1, (items, 400)), names, 0.95, 2000, 1)
        assert (low > 0).mean() <= 0.06


def test_a_gain_of_a_quarter_deviation_is_mostly_found():
    """At 240 items and a spread of 0.17 a gain of 0.043 is promoted nine times in ten."""
    differences = np.random.default_rng(4).normal(0.043, 0.17, (N, 400))
    low, _ = interval(differences, [f"c{number}" for number in range(N)], 0.95, 2000, 1)
    assert (low > 0).mean() >= 0.9


def test_items_of_one_cluster_count_together():
    """The same differences, alike within clusters, give a wider interval than as items of their own."""
    alike = np.repeat(NOISE[:24], 10)[:, None]
    alone = interval(alike, [f"c{number}" for number in range(N)], 0.95, 2000, 1)
    together = interval(alike, [f"c{number // 10}" for number in range(N)], 0.95, 2000, 1)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_the_interval_agrees_with_the_normal_one():
    """Many items of their own: the mean plus and minus 1.96 standard errors."""
    low, high = interval(NOISE[:, None], [f"c{number}" for number in range(N)], 0.95, 20_000, 1)
    reach = 1.96 * NOISE.std() / np.sqrt(N)
    assert [low[0], high[0]] == pytest.approx([-reach, reach], rel=0.05)


def test_the_order_of_the_items_does_not_matter():
    """The same scores in another order give the same decision to the last digit."""
    suite = asked(per_cluster=3)
    shuffled = dataclasses.replace(suite, items=tuple(random.Random(1).sample(suite.items, N)))
    place = [suite.items.index(item) for item in shuffled.items]
    after = BEFORE + NOISE + 0.02
    one = judge(suites=(suite,), after={"similarity": after})
    other = judge(
        suites=(shuffled,),
        before={metric: BEFORE[place] for metric in suite.metrics},
        after={"similarity": after[place]},
    )
    assert one.metrics["similarity"] == other.metrics["similarity"]


def test_missing_items_are_not_enough_data():
    """However large the gain; what there is is reported."""
    decision = judge(similarity=0.3, suites=(asked(n=190), known()))
    assert decision.decision == "not_enough_data"
    assert "190 of the 240 questions" in decision.reasons[0]
    assert "50 are missing" in decision.reasons[0]
    assert decision.metrics["similarity"].n == 190


def test_no_items_at_all_are_not_enough_data():
    """A metric without items is left out and named, once."""
    decision = judge(suites=(asked(n=0), known(n=0)))
    assert decision.decision == "not_enough_data"
    assert decision.metrics == {}
    for metric in ("similarity", "token_f1", "retention"):
        assert [metric in reason for reason in decision.reasons].count(True) == 1
    assert json.dumps(decision.to_json(), allow_nan=False)


def test_a_guard_without_items_is_left_out_and_named():
    """An objective whose retention suite is not filled yet can still promote."""
    decision = judge(similarity=NOISE + 0.036, suites=(asked(), known(n=0)))
    assert decision.decision == "promote"
    assert "retention is left out: it has no items" in decision.reasons


@pytest.mark.parametrize(("items", "per_cluster"), [(1, 1), (9, 1), (90, 90), (90, 10)])
def test_few_clusters_never_promote(items, per_cluster):
    """One item, or many of a few topics, say too little even where all of them gained the same."""
    decision = judge(similarity=0.5, suites=(asked(items, items, per_cluster), known()))
    assert decision.decision == "not_enough_data"
    assert "at least 10 are needed" in decision.reasons[0]


def test_a_guard_of_few_clusters_must_hold_in_each():
    """Of four retention items one was lost: the range says so, where a bootstrap could miss it."""
    lost = np.array([0.0, 0.0, 0.0, -1.0])
    decision = judge(similarity=NOISE + 0.036, retention=lost, suites=(asked(), known(n=4)))
    assert decision.decision == "refuse"
    assert decision.metrics["retention"].low == -1
    assert "4 clusters are too few for an interval" in decision.reasons[2]


def test_arithmetic_is_no_gain():
    """The same answers, encoded in other batches, differ in the last digits of float32 and win nothing."""
    assert judge(similarity=3e-7).decision == "refuse"


def test_what_was_learnt_from_corrections_must_be_kept():
    """Of those that the champion was trained on; new ones are reported beside them, and buy nothing back."""
    gate = GATE.model_copy(update={"guards": {"corrections_kept": Guard(margin=0.04, spread=0.1)}})
    suites = (asked(), corrected())
    honoured = np.array([1.0] * 16 + [0.0] * 14)
    lean = np.where(honoured, 0.1, -0.1)

    def outcome(now):
        return judge(
            similarity=NOISE + 0.036,
            suites=suites,
            gate=gate,
            before={"corrections_honoured": honoured, "corrections_lean": lean},
            after={"corrections_honoured": np.array(now) > 0, "corrections_lean": np.array(now)},
        )

    learnt = outcome([0.1] * 16 + [-0.1] * 4 + [0.3] * 10)
    assert learnt.decision == "promote"
    assert learnt.metrics["corrections_kept"].n == 20
    assert learnt.metrics["corrections_honoured"].difference == pytest.approx(10 / 30)
    assert "of 16 corrections that base honours v1 honours 16, and of the 14 others 10" in learnt.reasons
    moved = outcome([-0.1] * 4 + [0.1] * 16 + [0.3] * 10)
    assert moved.metrics["corrections_kept"].difference == pytest.approx(0)
    forgot = outcome([-0.1] * 8 + [0.1] * 8 + [-0.1] * 4 + [0.3] * 10)
    assert forgot.decision == "refuse"
    assert forgot.metrics["corrections_kept"].difference == pytest.approx(-0.08)
    assert forgot.metrics["corrections_lean"].difference > 0


def test_better_answers_with_worse_safety_are_vetoed():
    """However large the gain: an emergency that the champion sent to help must still be sent there."""
    items = tuple(Item(f"f{number:02}", "emergencies", f"f{number}", messages=()) for number in range(24))
    emergencies = Suite("emergencies", "prompts", ("escalation",), 24, items)
    gate = GATE.model_copy(update={"guards": {"escalation": Guard(margin=0.15, spread=0.3)}})
    before = {"escalation": np.ones(24)}

    def outcome(lost):
        after = {"escalation": np.array([0.0] * lost + [1.0] * (24 - lost))}
        return judge(
            similarity=NOISE + 0.5, suites=(asked(), emergencies), gate=gate, before=before, after=after
        )

    assert outcome(0).decision == "promote"
    worse = outcome(6)
    assert worse.metrics["similarity"].low > 0.4
    assert worse.decision == "refuse"
    assert any("escalation may have lost up to" in reason for reason in worse.reasons)


def test_a_suite_that_has_decided_too_often_is_named():
    """From the allowed number of decisions on; another suite's number does not matter."""
    suites = (asked(), known())
    scores = {metric: np.zeros(len(suite.items)) for suite in suites for metric in suite.metrics}
    one, other = evaluation("base", suites, scores), evaluation("v1", suites, scores)

    def worn(**decisions_before):
        return decide(one, other, suites, GATE, decisions_before).reasons[-1]

    assert "suite asked has decided 20 times before, and gate.reuse allows 20" in worn(asked=20)
    assert "has decided" not in worn(asked=19, known=20)


def test_items_that_a_metric_says_nothing_about_do_not_count():
    """It is judged on those it has a score for; another metric of the same suite on all."""
    suites = (asked(), known())
    scores = {metric: np.zeros(len(suite.items)) for suite in suites for metric in suite.metrics}
    one, other = evaluation("base", suites, scores), evaluation("v1", suites, scores)
    for each in (one, other):
        for number in range(200):
            del each.suites["asked"]["scores"]["token_f1"][f"i{number:03}"]
    metrics = decide(one, other, suites, GATE).metrics
    assert (metrics["token_f1"].n, metrics["similarity"].n) == (40, 240)


def test_a_suite_at_chance_is_refused_as_a_guard():
    """A champion that is right no more often than one constant choice has nothing there to lose."""
    suites = (asked(), known())
    scores = {metric: np.zeros(len(suite.items)) for suite in suites for metric in suite.metrics}
    one, other = evaluation("base", suites, scores), evaluation("v1", suites, scores)
    figures = one.suites["known"]["figures"]
    figures |= {"accuracy": 0.28, "constant_answer": 0.28}
    with pytest.raises(RatchetError, match="retention cannot guard: base is right on 28% of suite known"):
        decide(one, other, suites, GATE)
    assert decide(one, other, suites, GATE.model_copy(update={"guards": {}}))
    figures["accuracy"] = 0.3
    assert decide(one, other, suites, GATE)


def test_no_correction_was_known_yet():
    """Before the first promotion there is nothing to keep, and the reasons say it."""
    gate = GATE.model_copy(update={"guards": {"corrections_kept": Guard(margin=0.2, spread=0.3)}})
    suites = (asked(), corrected(known_ones=0))
    decision = judge(similarity=NOISE + 0.036, suites=suites, gate=gate)
    assert decision.decision == "promote"
    assert "corrections_kept is left out: it has no items" in decision.reasons


def test_only_comparable_evaluations_are_judged():
    """Other suites or settings are an error, not a decision."""
    suites = (asked(), known())
    scores = {metric: np.zeros(len(suite.items)) for suite in suites for metric in suite.metrics}
    one = evaluation("base", suites, scores)
    longer = dataclasses.replace(one, settings={"answer_tokens": 60})
    with pytest.raises(RatchetError, match="different settings"):
        decide(one, longer, suites, GATE)
    with pytest.raises(RatchetError, match="base was not evaluated on this suite of asked"):
        decide(one, one, (asked(n=200), known()), GATE)
    with pytest.raises(RatchetError, match="no suite takes the primary metric"):
        decide(one, one, (known(),), GATE)


def test_a_decision_comes_back_from_json():
    """Written as strict JSON and read again it is the same."""
    decision = judge(similarity=NOISE + 0.01)
    assert Decision.from_json(json.loads(json.dumps(decision.to_json(), allow_nan=False))) == decision


def test_a_decision_from_before_there_were_slices_still_loads():
    """What it does not say is left empty."""
    document = judge(similarity=NOISE + 0.01).to_json()
    old = {key: document[key] for key in ("decision", "reasons", "metrics")}
    loaded = Decision.from_json(json.loads(json.dumps(old)))
    assert loaded.metrics == judge(similarity=NOISE + 0.01).metrics
    assert (loaded.slices, loaded.detectable, loaded.items_needed) == ({}, None, None)


def test_a_decision_says_what_it_could_have_seen():
    """2.8 standard errors; by clusters, of which each counts once."""
    decision = judge(similarity=NOISE + 0.036)
    assert decision.detectable == pytest.approx(2.8016 * NOISE.std(ddof=1) / np.sqrt(N), rel=1e-3)
    assert decision.items_needed is None
    clustered = judge(similarity=np.repeat(NOISE[:24], 10), suites=(asked(per_cluster=10), known()))
    assert clustered.detectable == pytest.approx(2.8016 * NOISE[:24].std(ddof=1) / np.sqrt(24), rel=1e-3)
    assert judge(similarity=0.5, suites=(asked(9, 9), known())).detectable is None


def test_an_unsure_gain_says_how_many_items_would_show_it():
    """As many as make the gain that was seen the smallest that can be; a loss needs none."""
    decision = judge(similarity=NOISE + 0.01)
    assert decision.decision == "refuse"
    assert decision.items_needed == np.ceil(N * (decision.detectable / 0.01) ** 2)
    assert decision.reasons[-1] == (
        f"80 % of the time so many questions would show a gain of {decision.detectable:.3f}; the one that was seen "
        f"takes {decision.items_needed:,}"
    )
    assert judge(similarity=NOISE - 0.01).items_needed is None


def lengthy(n=N):
    """As `asked`, with expert's answers of three lengths in turn."""
    items = tuple(
        Item(f"i{number:03}", "asked", f"c{number}", messages=(), reference="x" * (number % 3 + 1))
        for number in range(n)
    )
    return Suite("asked", "questions", ("similarity", "token_f1"), n, items)


def test_a_slice_that_surely_loses_refuses_what_the_whole_has_won():
    """Long answers lose 0.2 and the others gain more; only an objective with a margin for slices minds."""
    changes = NOISE + np.resize([0.2, 0.2, -0.2], N)
    suites = (lengthy(), known())
    careless = judge(similarity=changes, suites=suites)
    careful = judge(similarity=changes, suites=suites, gate=GATE.model_copy(update={"slice_margin": 0.1}))
    assert (careless.decision, careful.decision) == ("promote", "refuse")
    found = careful.slices["similarity"]["long references"]
    assert found.n == 80
    assert careful.reasons[3] == (
        f"similarity by slice, the worst of 3: long references {found.difference:+.3f} (98.3 % interval "
        f"{found.low:.3f} to {found.high:.3f}, 80 questions): it surely lost more than 0.100"
    )
    assert set(careful.slices) == {"similarity", "token_f1"}


def test_slices_are_corrected_for_their_number():
    """Each interval is wider than the slice alone would have, and noise on a slice refuses nothing."""
    suites = (lengthy(), known())
    gate = GATE.model_copy(update={"slice_margin": 0.001})
    decision = judge(similarity=NOISE + 0.036, suites=suites, gate=gate)
    assert decision.decision == "promote"
    part = NOISE[2::3] + 0.036
    low, high = interval(part[:, None], [f"c{number}" for number in range(80)], 0.95, 2000, 1)
    found = decision.slices["similarity"]["long references"]
    assert found.high - found.low > 1.1 * (high[0] - low[0])


@pytest.mark.parametrize(
    ("low", "high", "tokens", "words"),
    [
        (0.55, 0.8, 130, "30% longer than the champion's (100 to 130 tokens), and 70% of the pairs"),
        (0.2, 0.4, 60, "40% shorter than the champion's (100 to 60 tokens), and 70% of the pairs"),
        (0.55, 0.8, 105, None),
        (0.55, 0.8, 60, None),
        (0.2, 0.4, 130, None),
        (0.45, 0.8, 130, None),
    ],
)
def test_length_is_spoken_of_where_it_went_the_way_of_the_pairs(low, high, tokens, words):
    """Only a sure lean and a notable change the same way; the verdict stays."""
    suites = (asked(), known())
    scores = {"similarity": BEFORE, "token_f1": BEFORE, "retention": BEFORE[:60]}
    champion, candidate = (evaluation(name, suites, scores) for name in ("base", "v1"))
    decision = decide(champion, candidate, suites, GATE)
    lean = {"pairs": 40, "share": 0.7 if low > 0.4 else 0.3, "low": low, "high": high}
    assert beside_lean(decision, lean, champion, candidate, GATE) == decision, "nothing is known of lengths"
    champion.suites["asked"]["figures"]["answer_tokens"] = 100.0
    candidate.suites["asked"]["figures"]["answer_tokens"] = float(tokens)
    found = beside_lean(decision, lean, champion, candidate, GATE)
    assert found.decision == decision.decision
    added = found.reasons[len(decision.reasons) :]
    assert (len(added) == 1 and words in added[0]) if words else added == ()
    assert beside_lean(decision, {"pairs": 40}, champion, candidate, GATE) == decision
