"""What a chat answer was about is the topic of the objective's own question that is nearest."""

from feedback.likeness.topics import TopicBook
from feedback.likeness.vectors import Vectors
from feedback.store import Store
from tests.said import turn
from tests.test_vectors import Letters

OWN = {"a a b": "apples", "c d d": "dates"}


def test_the_nearest_own_question_gives_the_topic(tmp_path):
    """All that was asked counts, so a follow-up stays with what it follows; the encoder is asked for nothing."""
    follow_up = tuple({"role": "user", "content": text} for text in ("d d", "b c"))
    turns = turn("t1", question="a"), turn("t2", question="d b"), turn("t3", messages=follow_up)
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(*turns)
        Vectors(store, Letters()).of([*OWN, "a", "d b", "d d", "b c"])
        encoder = Letters()
        book = TopicBook(store, Vectors(store, encoder), OWN)
        assert book.of(["t1", "t2", "t3"]) == {"t1": "apples", "t2": "dates", "t3": "dates"}
        assert encoder.read == []


def test_what_no_compilation_has_read_has_no_topic_yet(tmp_path):
    """Neither a turn with a question that is new, nor any while one of the objective's own is; later they have."""
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(turn("t1", question="a"), turn("t2", question="d"))
        vectors = Vectors(store, Letters())
        book = TopicBook(store, vectors, OWN)
        vectors.of(["a a b", "a"])
        assert book.of(["t1", "t2"]) == {}
        vectors.of(["c d d"])
        assert book.of(["t1", "t2", "gone"]) == {"t1": "apples"}
        vectors.of(["d"])
        assert book.of(["t1", "t2"]) == {"t1": "apples", "t2": "dates"}
