"""Which side of the wall an item is on, whatever comes first."""

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.compiling.compiler import Events, compile_events
from feedback.compiling.curation import Curation
from feedback.likeness.sides import SideBook
from feedback.records import Knowledge, Turn

AT = datetime(2026, 1, 1, tzinfo=UTC)
QUESTION = "What is the best way to treat a mild sunburn at home?"
ALIKE = "what is the best way to treat a mild sunburn at home"
ANSWER = "Cool the skin with water, drink enough, and stay out of the sun."


def book(validation: float = 0.3, held_out: float = 0.3, recorded=None) -> SideBook:
    """A side book with the near-duplicate threshold of the default curation."""
    return SideBook(validation, held_out, 0.8, recorded or {})


def test_a_topic_is_on_one_side_however_it_is_written():
    """Capitals, punctuation and width of a topic's name do not matter."""
    sides = book()
    for item, topic in enumerate(("Heart Attack", "heart-attack", "\uff28eart  attack!")):
        sides.see(f"i{item}", f"{QUESTION} {item}", ANSWER, topic)
    assert len({sides.place(f"i{item}") for item in range(3)}) == 1
    assert list(sides.new) == ["topic:heart attack"]


def test_a_look_alike_is_on_the_side_of_what_came_first():
    """Without a topic, the near-duplicate cluster decides."""
    for recorded in (None, {"topic:sun": ("topic:sun", "held_out")}, {"topic:sun": ("topic:sun", "train")}):
        sides = book(recorded=recorded)
        sides.see("first", QUESTION, "", "Sun")
        sides.see("second", ALIKE, "", None)
        assert sides.place("second") == sides.place("first")


def test_the_shares_are_of_topics():
    """About the asked share of topics is on each side."""
    sides = book(0.05, 0.12)
    for number in range(4000):
        sides._record(f"topic:{number}", (f"topic:{number}", sides._side_of(f"topic:{number}")))
    drawn = [side for _, side in sides.new.values()]
    assert 0.10 < drawn.count("held_out") / 4000 < 0.14
    assert 0.035 < drawn.count("validation") / 4000 < 0.065


def test_a_recorded_side_stands_whatever_the_shares_are_now():
    """Changing the objective's shares moves nothing that was seen."""
    recorded = {"topic:sun": ("topic:sun", "train")}
    sides = book(0, 1, recorded)
    sides.see("old", QUESTION, ANSWER, "Sun")
    sides.see("new", "What helps against a hangover?", ANSWER, "Alcohol")
    assert (sides.side("old"), sides.side("new")) == ("train", "held_out")
    assert list(sides.new) == ["topic:alcohol"]


def test_a_golden_topic_is_held_out_whatever_its_hash():
    """The objective's own items are never trained on, nor is anything else about their topics."""
    sides = book(0, 0)
    sides.hold_out(QUESTION, ANSWER, "Sun")
    sides.see("same topic", "How strong is the sun in May?", ANSWER, "SUN")
    sides.see("same question", ALIKE, "", None)
    assert sides.side("same topic") == sides.side("same question") == "held_out"


def test_a_question_without_any_word_has_a_place():
    """Signs and pictures alone are a question too."""
    sides = book(0, 0)
    sides.see("pictures", "🤒❓", "", None)
    sides.see("marks", "???", "", None)
    assert sides.side("pictures") == sides.side("marks") == "train"
    assert sides.bridges("marks", "") is None


TOPICS = [None, "Sun", "Skin", "Heart", "Sleep", "Iron", "Lungs", "Ears"]
QUESTIONS = [
    QUESTION,
    ALIKE,
    "How long should I sleep each night?",
    "Why do my ears hurt on a flight?",
    "Why?",
]
ITEMS = st.tuples(st.sampled_from(QUESTIONS), st.sampled_from(TOPICS), st.booleans())


def arrive(batches: list[list[tuple[str, str | None, bool]]]):
    """Compile after each batch on what was recorded so far; yields each compilation and all sides by then."""
    knowledge, turns, recorded = [], [], {}
    curation = Curation(validation_share=0.3, held_out_share=0.3, min_words=1)
    for batch in batches:
        for question, topic, is_knowledge in batch:
            number = f"{len(knowledge) + len(turns):03}"
            if is_knowledge:
                knowledge.append(Knowledge("k" + number, question, f"{ANSWER} {number}", AT, topic))
            else:
                asked = ({"role": "user", "content": question},)
                turns.append(Turn("t" + number, "c" + number, "ann", asked, ANSWER, "base", AT, topic=topic))
        result = compile_events(
            Events(turns=turns, knowledge=knowledge), curation, "Be kind.", recorded=recorded
        )
        assert not result.new_sides.keys() & recorded.keys()
        recorded = recorded | result.new_sides
        yield result, recorded


@given(st.lists(st.lists(ITEMS, max_size=5), min_size=1, max_size=4))
def test_no_topic_crosses_sides_in_any_order(batches):
    """A topic or cluster has one side, and keeps it through every later compilation."""
    side_of: dict[str, str] = {}
    for result, recorded in arrive(batches):
        for cluster, side in recorded.values():
            assert side_of.setdefault(cluster, side) == side
        for row in result.rows:
            assert side_of[row.cluster] == row.side != "held_out"
        assert all(side_of[item.cluster] == "held_out" for item in result.held_out)


@settings(max_examples=10)
@given(st.permutations([(q, t, True) for q, t in zip(QUESTIONS, TOPICS[1:], strict=False)]))
def test_topics_fall_on_the_same_sides_in_every_order(items):
    """Where every item has a topic, neither order nor batches matter."""
    ((_, in_order),) = arrive([sorted(items)])
    *_, (_, one_by_one) = arrive([[item] for item in items])
    assert in_order == one_by_one
