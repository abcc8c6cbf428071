"""In any order of arrival nothing crosses the wall between sides, and a recorded side never changes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feedback.likeness.clusters import Meanings
from feedback.likeness.sides import SideBook

ANSWER = (
    "Cool the skin with water, drink enough, keep it covered and out of the sun until it has healed, and see "
    "a doctor when blisters appear or fever begins."
)
# By direction in the plane: questions less than 25 degrees apart mean the same to the encoder.
QUESTIONS = {
    "What is the best way to treat a mild sunburn at home?": 0,
    "what is the best way to treat a mild sunburn at home": 0,
    "What is the best way to treat a mild sunburn at home, please?": 5,
    "How do I soothe skin that got too much sun?": 20,
    "Which lotion calms red skin after a day at the beach?": 40,
    "How long should I sleep each night?": 120,
    "How many hours of sleep does an adult need?": 130,
    "Why do my ears hurt on a flight?": 240,
    "Why?": 300,
}
ALIKE = list(QUESTIONS)[:3]  # these nearly repeat each other
TOPICS = [None, None, "Sun", "sun!", "Skin care", "skin-care", "Sleep", "Ears"]
ITEMS = st.lists(st.tuples(st.sampled_from(list(QUESTIONS)), st.sampled_from(TOPICS)), max_size=10)
GOLDEN = st.lists(st.tuples(st.sampled_from(list(QUESTIONS)), st.sampled_from(TOPICS)), max_size=2)
READ_BY_AN_ENCODER = st.booleans()


def vector(question: str) -> tuple[float, float]:
    """The direction of a question."""
    angle = np.radians(QUESTIONS[question])
    return np.cos(angle), np.sin(angle)


def meanings(items: list[tuple[str, str | None]], is_read: bool) -> Meanings | None:
    """What an encoder makes of the questions, in the order of arrival."""
    asked = [question for question, _ in items]
    if not is_read or not asked:
        return None
    return Meanings(asked, np.array([vector(question) for question in asked], np.float32), 0.9)


def compiled(golden, items, is_read, recorded=None) -> SideBook:
    """A book that has seen the items, named by their number."""
    book = SideBook(0.3, 0.3, 0.8, recorded or {}, meanings([*golden, *items], is_read))
    for question, topic in golden:
        book.hold_out(question, "", topic)
    for number, (question, topic) in enumerate(items):
        book.see(str(number), question, "", topic)
    return book


def resemble(one: str, other: str, is_read: bool) -> bool:
    """Whether two questions nearly repeat each other or, to the encoder, mean the same."""
    return (
        one == other
        or (one in ALIKE and other in ALIKE)
        or (is_read and float(np.dot(vector(one), vector(other))) >= 0.9)
    )


@given(GOLDEN, ITEMS, READ_BY_AN_ENCODER)
def test_nothing_in_training_resembles_what_is_on_a_stricter_side(golden, items, is_read):
    """Whoever came first: what no rule sets aside resembles nothing that is held out or validates."""
    book = compiled(golden, items, is_read)
    places = [(question, book.side(str(number))) for number, (question, _) in enumerate(items)]
    places += [(question, "held_out") for question, _ in golden]
    for number, (question, _) in enumerate(items):
        likes = {side for other, side in places if resemble(question, other, is_read)}
        side, rule = book.side(str(number)), book.bridges(str(number), "")
        if side != "held_out" and "held_out" in likes:
            assert rule == "resembles_held_out"
        elif side == "train" and "validation" in likes:
            assert rule == "resembles_validation"
        else:
            assert rule is None


@given(st.sampled_from(list(QUESTIONS)), st.sampled_from(list(QUESTIONS)), READ_BY_AN_ENCODER)
def test_a_question_of_a_conversation_counts_by_itself(golden, question, is_read):
    """A look-alike that comes second in a conversation is found as one that stands alone is."""
    book = SideBook(0, 0, 0.8, {}, meanings([(golden, None), (question, None)], is_read))
    book.hold_out(golden, "", None)
    book.see("talk", f"Hello there\n{question}", "", "A topic of its own")
    found = book.bridges("talk", "", ["Hello there", question])
    assert found == ("resembles_held_out" if resemble(golden, question, is_read) else None)


@given(GOLDEN, ITEMS, READ_BY_AN_ENCODER)
def test_a_topic_and_a_cluster_are_on_one_side(golden, items, is_read):
    """However a topic is written, and whatever joined a cluster later."""
    book = compiled(golden, items, is_read)
    side_of: dict[str, str] = {}
    for number, (_, topic) in enumerate(items):
        cluster, side = book.place(str(number))
        assert side_of.setdefault(cluster, side) == side
        if topic:
            assert cluster == "topic:" + topic.lower().replace("-", " ").strip("!")


@given(GOLDEN, ITEMS, ITEMS, st.randoms(use_true_random=False), READ_BY_AN_ENCODER, READ_BY_AN_ENCODER)
def test_a_recorded_side_never_changes(golden, items, more, draw, is_read, is_read_later):
    """More rows, in another order and with or without an encoder, move nothing that was recorded."""
    first = compiled(golden, items, is_read)
    together = [*items, *more]
    draw.shuffle(together)
    later = compiled(golden, together, is_read_later, recorded=first.new)
    assert not later.new.keys() & first.new.keys()
    before = {(question, topic): first.place(str(n)) for n, (question, topic) in enumerate(items)}
    for number, item in enumerate(together):
        if item in before:
            assert later.place(str(number)) == before[item]


@given(ITEMS, st.randoms(use_true_random=False))
def test_a_look_alike_of_a_held_out_item_is_held_out_too(items, draw):
    """Without a topic of its own, at first sight it joins what is held out."""
    draw.shuffle(items)
    golden = [(ALIKE[0], None)]
    book = compiled(golden, items, True)
    for number, (question, topic) in enumerate(items):
        if topic is None and question in ALIKE:
            assert book.side(str(number)) == "held_out"


@given(GOLDEN, ITEMS, READ_BY_AN_ENCODER)
def test_the_same_arrivals_are_placed_the_same(golden, items, is_read):
    """A book has no memory of another and draws nothing by chance."""
    one, other = compiled(golden, items, is_read), compiled(golden, items, is_read)
    assert one.new == other.new
    assert [one.place(str(n)) for n in range(len(items))] == [other.place(str(n)) for n in range(len(items))]


def test_an_expert_answer_of_a_stricter_side_is_not_taught():
    """What a reviewer wrote for a held-out or validating item is kept out of training, nearly repeated or not."""
    book = SideBook(
        0.5, 0, 0.8, {"topic:sun": ("topic:sun", "held_out"), "topic:skin": ("topic:skin", "train")}
    )
    book.see("held out", "How do I soothe skin that got too much sun?", "", "Sun")
    book.see("taught", "Which lotion helps?", "", "Skin")
    assert book.bridges("taught", ANSWER) is None
    book.answered("taught", ANSWER)
    assert book.bridges("taught", ANSWER) is None
    book.answered("held out", ANSWER)
    assert book.bridges("taught", ANSWER + " Soon.") == "resembles_held_out"


def test_what_means_the_same_joins_at_first_sight():
    """A question in other words is placed beside the first; without an encoder it stands alone."""
    asked = [
        "How do I soothe skin that got too much sun?",
        "Which lotion calms red skin after a day at the beach?",
    ]
    for is_read in (True, False):
        book = compiled([], [(asked[0], "Sun"), (asked[1], None)], is_read)
        assert (book.place("1") == book.place("0")) is is_read
