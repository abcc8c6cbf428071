"""How often somebody may do something: so often, then not, then again."""

import pytest

from app.limits import KEYS_KEPT, RATES, Limits, Rate, network_of
from feedback.errors import Refused


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_too_many_is_refused_and_told_how_long(clock: Clock):
    """The window moves: room comes back one by one, as the earliest leave it."""
    limits = Limits({"nod": Rate("too many nods", 2, 60)}, clock)
    limits.check("nod", "ann")
    clock.now += 10.5
    limits.check("nod", "ann")
    with pytest.raises(Refused, match=r"^too many nods: wait 50 seconds$"):
        limits.check("nod", "ann")
    clock.now += 49.5
    limits.check("nod", "ann")
    with pytest.raises(Refused, match="wait 11 seconds"):
        limits.check("nod", "ann")


def test_nobody_pays_for_another(clock: Clock):
    """Kinds and keys are counted apart, and a refusal is not counted."""
    limits = Limits({"nod": Rate("nods", 1, 60), "wave": Rate("waves", 1, 60)}, clock)
    limits.check("nod", "ann")
    limits.check("nod", "bob")
    limits.check("wave", "ann")
    for _ in range(3):
        clock.now += 19
        with pytest.raises(Refused):
            limits.check("nod", "ann")
    clock.now += 3
    limits.check("nod", "ann")


def test_failures_are_counted_apart_from_the_question(clock: Clock):
    """`refuse` asks and counts nothing, `count` counts, `forget` lets one begin anew."""
    limits = Limits({"fail": Rate("fails", 2, 60)}, clock)
    for _ in range(5):
        limits.refuse("fail", "ann")
    for _ in range(4):
        limits.count("fail", "ann")
    with pytest.raises(Refused):
        limits.refuse("fail", "ann")
    limits.forget("fail", "ann")
    limits.refuse("fail", "ann")


def test_keys_that_ran_out_are_dropped(clock: Clock):
    """Whoever comes with ever new keys does not fill the memory."""
    limits = Limits({"nod": Rate("nods", 1, 60)}, clock)
    for i in range(KEYS_KEPT):
        limits.check("nod", f"{i}")
    clock.now += 61
    limits.check("nod", "ann")
    assert list(limits._done["nod"]) == ["ann"]


def test_thirty_ratings_and_twenty_questions_a_minute(clock: Clock):
    """The rates of the house, per person."""
    limits = Limits(clock=clock)
    for kind, times in (("rating", 30), ("question", 20)):
        assert RATES[kind].seconds == 60
        for _ in range(times):
            limits.check(kind, "ann")
        with pytest.raises(Refused, match=f"too many {kind}s: wait 60 seconds"):
            limits.check(kind, "ann")


@pytest.mark.parametrize(
    ("client", "key"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8:1:2:3::4", 5), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5), "fe80::/64"),
        (("testclient", 5), "testclient"),
        (None, ""),
    ],
)
def test_a_household_is_one_network(client, key: str):
    """An IPv6 network has more addresses than anybody could count; it counts as one."""
    assert network_of(client) == key
