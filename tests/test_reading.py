"""The domain is what the objective asks and knows itself; what is far from it is not trained on."""

import numpy as np
import pytest

from feedback.compiling.compiler import Events
from feedback.likeness.reading import read_questions
from feedback.likeness.vectors import Vectors
from feedback.records import OWN
from feedback.store import Store
from tests.said import ALL_TRAIN, compiled, dropped, knowledge, rating, turn

ORGANS, CARS = ("heart", "lung", "skin"), ("engine", "brake", "tyre")
STRICT = ALL_TRAIN.model_copy(update={"relevance": 0.5, "semantic_duplicate": 1.0})


class Subjects:
    """An encoder that knows two subjects: bodies and cars."""

    name = "subjects"

    def encode(self, texts):
        """A unit row for each text."""
        counts = [[sum(word in text for word in subject) for subject in (ORGANS, CARS)] for text in texts]
        rows = np.array(counts, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def vectors(tmp_path):
    """The vectors of an open store."""
    with Store.open(tmp_path / "store.duckdb") as store:
        yield Vectors(store, Subjects())


def events(*asked: str) -> Events:
    """A liked answer for each question, beside the objective's own knowledge and an imported file about cars."""
    return Events(
        turns=[turn(f"t{number}", question) for number, question in enumerate(asked)],
        signals=[rating(f"s{number}", 1, turn=f"t{number}") for number, _ in enumerate(asked)],
        reviews=[],
        knowledge=[
            knowledge(OWN + "1", "How do heart and lung work?"),
            *(
                knowledge(f"k{number}", f"What does the {part} of a car do?")
                for number, part in enumerate(CARS)
            ),
        ],
    )


def test_what_is_far_from_the_domain_is_set_aside(vectors):
    """What was imported vouches for nothing, and golden questions count as the objective's own."""
    said = events("Can the skin breathe?", "Why does my brake squeak?")
    assert read_questions(said, ["Is the heart a muscle?"], [], STRICT, vectors).off_topic == {"t1"}
    cars = [f"Is a tyre round in {year}?" for year in range(2020, 2025)]
    assert "t1" not in read_questions(said, cars, [], STRICT, vectors).off_topic


def test_without_a_limit_everything_is_of_the_domain(vectors):
    """An objective need not say what belongs to it."""
    said = events("Why does my brake squeak?")
    anything = STRICT.model_copy(update={"relevance": None})
    assert read_questions(said, [], [], anything, vectors).off_topic == set()
    assert read_questions(events(), [], [], STRICT, vectors).off_topic == set()


def test_what_is_off_topic_is_dropped_by_that_name():
    """Everything that was said about such an answer."""
    said = (turn(), rating("s1", 1), rating("s2", -1, "ben"))
    assert dropped(compiled(*said, off_topic={"t1"})) == {"off_topic": 2}
