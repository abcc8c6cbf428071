"""A text is read by the encoder once; its vector is kept, and forgotten with the text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from feedback.history import forget
from feedback.likeness import vectors
from feedback.likeness.vectors import Vectors, vector_digest
from feedback.store import Store
from tests.said import AT, turn


class Letters:
    """An encoder that counts the letters a to d, and remembers what it was asked to read."""

    def __init__(self, name: str = "letters"):
        self.name = name
        self.read: list[str] = []

    def encode(self, texts):
        """A unit row for each text."""
        self.read += texts
        counts = np.array([[text.count(letter) for letter in "abcd"] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path):
    """An open store."""
    with Store.open(tmp_path / "store.duckdb") as opened:
        yield opened


def test_a_text_is_read_once(store, monkeypatch):
    """Not twice in one call, nor in a later one, whatever white space surrounds it; and in any portions."""
    monkeypatch.setattr(vectors, "_AT_ONCE", 2)
    encoder = Letters()
    first = Vectors(store, encoder).of(["a b", "b", "c", " a  b\n", "a b"])
    again = Vectors(store, encoder).of(["b", "a b", "d"])
    assert encoder.read == ["a b", "b", "c", "d"]
    assert (again[:2] == first[[1, 0]]).all()
    assert first.shape == (5, 4)
    assert first.dtype == np.float32


def test_vectors_are_kept_over_a_restart(tmp_path):
    """They are in the store's file, and no events: the mark and the counts do not know them."""
    file = tmp_path / "store.duckdb"
    with Store.open(file) as store:
        before = store.mark_file.read_text(), store.counts()
        made = Vectors(store, Letters()).of(["a b c", "d d a"])
        assert (store.mark_file.read_text(), store.counts()) == before
    encoder = Letters()
    with Store.open(file) as store:
        assert (Vectors(store, encoder).of(["a b c", "d d a"]) == made).all()
    assert encoder.read == []


def test_every_encoder_has_its_own(store):
    """Another encoder's vectors are never taken for one's own."""
    Vectors(store, Letters("one")).of(["a"])
    other = Letters("other")
    Vectors(store, other).of(["a"])
    assert other.read == ["a"]


def test_who_deletes_a_chat_leaves_no_vectors_of_their_questions(store):
    """They are gone for every encoder; those of other texts stay."""
    store.add(turn(question="a", user="ann", conversation="c1"))
    encoder, other = Letters("one"), Letters("other")
    for each in (encoder, other):
        Vectors(store, each).of(["a", "b"])
        each.read.clear()
    forget(store, "ann", ["c1"], AT)
    assert store.vectors("one", [vector_digest("a")]) == store.vectors("other", [vector_digest("a")]) == []
    Vectors(store, encoder).of(["a", "b"])
    assert encoder.read == ["a"]


def test_no_texts_have_no_vectors(store):
    """An empty store of questions is no error."""
    assert Vectors(store, Letters()).of([]).shape == (0, 0)


@given(arrays(np.float32, (4, 4), elements=st.floats(-1, 1, width=32)))
def test_cosines_are_exact(raw):
    """Whatever order a machine adds in, float32 gives the very product of two kept vectors."""
    raw /= np.maximum(np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True), 1).astype(np.float32)
    kept = vectors.rounded(raw).astype(np.float32)
    exact = (kept * 2048).astype(np.int64) @ (kept * 2048).astype(np.int64).T
    assert (kept @ kept.T * 2048**2 == exact).all()
    assert abs(kept - raw).max() <= 2**-12
