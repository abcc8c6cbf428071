"""The gate's error rates, from recorded differences and by the gate's own rule."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.objective import Gate, Guard, Objective, Page, SuitePlan
from eval.simulation import Pair, Recorded, load_recorded, simulate
from feedback.errors import UsageError
from tests.record_differences import pair_of
from tests.test_gate import corrected, evaluation, lengthy

ITEMS = 60
SPREAD = 0.1
NOISE = np.random.default_rng(11).normal(0, SPREAD, 200)
NOISE -= NOISE.mean()
NOISE *= SPREAD / NOISE.std()
CORRECTIONS = ("corrections_honoured", "corrections_lean")


def alone(values):
    """Each value as a cluster of its own."""
    return [[float(value)] for value in values]


def objective(effect=0.0362, guards=(), slice_margin=None, items=ITEMS):
    """60 questions; at a spread of 0.1 the default effect is 2.8 standard errors: found 80 % of the time."""
    return Objective(
        folder=Path(),
        title="Plants",
        system_prompt="",
        base_model="tiny",
        encoder="tiny",
        page=Page(consent="", disclaimer=""),
        suites={
            "asked": SuitePlan(kind="questions", items=items, metrics=("similarity", "token_f1")),
            "corrected": SuitePlan(
                kind="corrections", items=40, metrics=("corrections_honoured", "corrections_lean")
            ),
        },
        gate=Gate(
            primary="similarity",
            effect=effect,
            slice_margin=slice_margin,
            guards={name: Guard(margin=margin, spread=margin) for name, margin in dict(guards).items()},
        ),
    )


def record(null=(), gain=()):
    """Noise on the primary, and what else is given."""
    primary = {"similarity": alone(NOISE)}
    return Recorded(
        made="by hand",
        null=Pair(metrics=primary | dict(null)),
        gain=Pair(metrics=primary | dict(gain)),
    )


def test_noise_is_promoted_as_seldom_as_promised():
    """At most one round in twenty without a gain, and the recorded pair's own luck does not count."""
    lucky = Recorded(
        made="by hand",
        null=Pair(metrics={"similarity": alone(NOISE + 0.05)}),
        gain=Pair(metrics={"similarity": alone(NOISE)}),
    )
    for recorded in (record(), lucky):
        found = simulate(objective(), recorded, 1000)
        low, high = found["false_promotion_interval"]
        assert low <= found["false_promotion"] <= high
        assert 0.01 < found["false_promotion"] <= 0.05


def test_the_declared_effect_is_found_as_often_as_the_formula_says():
    """2.8 standard errors: eight times in ten; twice that always; and the fewest items agree."""
    found = simulate(objective(), record(), 1000)
    low, high = found["power_interval"]
    assert low - 0.02 < 0.8 < high + 0.02
    assert found["items_needed"] == pytest.approx(ITEMS, rel=0.1)
    assert simulate(objective(effect=0.0724), record(), 200)["power"] > 0.99
    half = simulate(objective(effect=0.0181), record(), 500)
    assert half["power"] < 0.4
    assert half["items_needed"] == pytest.approx(4 * ITEMS, rel=0.15)


def test_clusters_are_drawn_whole():
    """Items that always move together tell as little as one of them."""
    together = {"similarity": [[float(value)] * 4 for value in NOISE]}
    recorded = Recorded(made="", null=Pair(metrics=together), gain=Pair(metrics=together))
    assert simulate(objective(items=4 * ITEMS), recorded, 500)["power"] == pytest.approx(0.8, abs=0.06)


def test_few_clusters_are_never_promoted():
    """Two clusters of thirty items that all gain are not enough data; ten are."""
    large = {"similarity": [[0.1] * 30] * 20}
    found = simulate(objective(), Recorded(made="", null=Pair(metrics=large), gain=Pair(metrics=large)), 50)
    assert (found["false_promotion"], found["power"]) == (0.0, 0.0)
    assert 9 * 30 < found["items_needed"] <= 10 * 30


def test_a_guard_counts_and_is_drawn_with_the_primary():
    """One that gains where the primary does never stands in its way; one that lost too much always does."""
    free = simulate(objective(), record(), 400)
    guarded = objective(guards={"token_f1": 0.001})
    alike = record({"token_f1": alone(NOISE)}, {"token_f1": alone(NOISE + 0.0362)})
    assert simulate(guarded, alike, 400)["power"] == pytest.approx(free["power"], abs=0.03)
    opposed = record({"token_f1": alone(NOISE)}, {"token_f1": alone(0.0362 - NOISE)})
    assert simulate(guarded, opposed, 400)["power"] < 0.9 * free["power"]
    lost = simulate(
        objective(guards={"token_f1": 0.05}),
        record({"token_f1": alone(NOISE)}, {"token_f1": alone(NOISE - 1)}),
        100,
    )
    assert (lost["power"], lost["items_needed"]) == (0.0, None)


def test_a_guard_that_the_win_has_no_items_of_is_taken_from_the_null():
    """The first promotion has no kept corrections; unjudged items are drawn and count nowhere."""
    forgot = {"corrections_kept": [[-1.0], [None]] * 20}
    found = simulate(objective(guards={"corrections_kept": 0.5}), record(forgot), 200)
    assert (found["false_promotion"], found["power"]) == (0.0, 0.0)
    assert found["items"] == {"similarity": 60, "corrections_kept": 20}
    kept = {"corrections_kept": [[0.0], [None]] * 20}
    assert simulate(objective(guards={"corrections_kept": 0.5}), record(kept), 200)["power"] > 0.7


def test_a_guard_that_was_never_recorded_is_named():
    """The rates hold without it, and say so."""
    found = simulate(objective(guards={"corrections_kept": 0.5}), record(), 100)
    assert found["left_out"] == ["corrections_kept"]
    assert "corrections_kept" not in found["items"] | found["margins"]


def test_a_slice_that_surely_loses_stops_a_round():
    """Half of the items lose what the others gain and more; without a margin for slices it passes."""
    primary = alone(np.resize([-0.3, 0.4], 200))
    losing = [cluster if cluster[0] < 0 else [None] for cluster in primary]
    pair = Pair(metrics={"similarity": primary}, slices={"long": losing})
    recorded = Recorded(made="", null=pair, gain=pair)
    assert simulate(objective(effect=0.2, slice_margin=0.05), recorded, 200)["power"] < 0.05
    assert simulate(objective(effect=0.2), recorded, 200)["power"] > 0.5


def test_the_same_simulation_gives_the_same_document():
    """To the last digit, as strict JSON."""
    one, other = (json.dumps(simulate(objective(), record(), 100), allow_nan=False) for _ in range(2))
    assert one == other


def test_what_is_missing_is_said():
    """An effect, the primary, the same clusters for one suite's metrics."""
    with pytest.raises(UsageError, match=r"gate\.effect: is missing"):
        simulate(objective(effect=None), record(), 100)
    none = Pair(metrics={"token_f1": alone(NOISE)})
    with pytest.raises(UsageError, match="similarity is missing"):
        simulate(objective(), Recorded(made="", null=none, gain=none), 100)
    with pytest.raises(UsageError, match="token_f1 has other clusters than similarity"):
        simulate(objective(guards={"token_f1": 0.1}), record({"token_f1": alone(NOISE[:9])}), 100)


def test_a_bad_file_is_named(tmp_path):
    """None, or a number that is none."""
    with pytest.raises(UsageError, match=r"differences.json does not exist; record"):
        load_recorded(tmp_path)
    (tmp_path / "differences.json").write_text(
        '{"made": "", "null": {"metrics": {"similarity": [[NaN]]}}, "gain": {"metrics": {}}}'
    )
    with pytest.raises(UsageError, match=r"differences.json: null.metrics.similarity.0.0"):
        load_recorded(tmp_path)


def test_what_is_recorded_can_be_simulated():
    """Metrics that decide, the primary's slices, and no number for a correction that was not known before."""
    suites = [lengthy(60), corrected(known_ones=15, new_ones=15)]
    before = {"similarity": np.zeros(60), "token_f1": np.zeros(60)}
    after = {"similarity": np.resize(NOISE, 60), "token_f1": np.zeros(60)}
    pair = pair_of(
        evaluation("one", suites, before | dict.fromkeys(CORRECTIONS, np.ones(30))),
        evaluation("two", suites, after | dict.fromkeys(CORRECTIONS, np.resize([0.0, 1.0], 30))),
        suites,
        objective(guards={"corrections_kept": 0.5}).gate,
    )
    assert pair["metrics"]["corrections_kept"] == [[-1.0], [0.0]] * 7 + [[-1.0]] + [[None]] * 15
    assert pair["metrics"]["similarity"][1] == [pytest.approx(NOISE[1], abs=1e-4)]
    assert pair["slices"]["short references"][:2] == [pair["metrics"]["similarity"][0], [None]]
    assert pair["metrics"].keys() == {"similarity", "corrections_kept"}
    document = {"made": "by hand", "null": pair, "gain": pair}
    simulated = simulate(objective(), Recorded.model_validate(document), 50)
    assert simulated["false_promotion"] < 0.2
