"""What means the same is found by the cosine of vectors, whatever the number of questions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from feedback.likeness import clusters
from feedback.likeness.clusters import Meanings, relevance


def circle(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane; the cosine of two is that of the angle between them."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def meanings(*degrees: float, threshold: float = 0.9) -> Meanings:
    """Questions q0, q1, ... at these angles; 0.9 is the cosine of 25.8 degrees."""
    return Meanings([f"q{i}" for i in range(len(degrees))], circle(*degrees), threshold)


def clusters_of(found: Meanings) -> list[int]:
    """The cluster of each question."""
    return [found.cluster(number) for number in range(len(found))]


def test_what_is_near_a_founder_is_in_its_cluster():
    """The first of those alike founds the cluster; one beyond its reach founds its own."""
    assert clusters_of(meanings(0, 20, 90, 100, 10)) == [0, 0, 2, 2, 0]


def test_clusters_do_not_grow_by_chains():
    """Every member is near its founder, so that a chain of small steps does not join everything."""
    assert clusters_of(meanings(0, 20, 40, 60, 80)) == [0, 0, 2, 2, 4]


def test_likeness_reaches_across_clusters():
    """Two questions that mean the same are found to, though each stands in another cluster."""
    found = meanings(0, 20, 40)
    assert found.cluster(1) != found.cluster(2)
    assert found.like([2]).tolist() == [False, True, True]
    assert found.like([]).tolist() == [False, False, False]


def test_equal_questions_count_once_however_they_are_written():
    """Form does not matter, and the first vector of a question stands."""
    found = Meanings(["Why?", "why", "How?"], circle(0, 90, 180), 0.9)
    assert [found.number(text) for text in ("WHY!", "how", "what")] == [0, 1, None]
    assert len(found) == 2


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
def test_blocks_change_nothing(block, monkeypatch):
    """A founder of an earlier block is found as one of the same block is."""
    degrees = [0, 100, 20, 40, 118, 200, 45, 3, 210]
    whole = clusters_of(meanings(*degrees))
    monkeypatch.setattr(clusters, "_ROWS", block)
    monkeypatch.setattr(clusters, "_COLUMNS", 2)
    in_blocks = meanings(*degrees)
    assert clusters_of(in_blocks) == whole
    assert in_blocks.like([3]).tolist() == meanings(*degrees).like([3]).tolist()


@given(st.lists(st.floats(0, 360, width=32), max_size=12))
def test_every_pair_is_compared(degrees):
    """A cluster holds what is near its founder, and no two founders are near each other."""
    vectors, found = circle(*degrees), meanings(*degrees)
    founders = sorted(set(clusters_of(found)))
    for number, cluster in enumerate(clusters_of(found)):
        assert number == cluster or vectors[number] @ vectors[cluster] >= np.float32(0.9)
    for one in founders:
        assert not any(vectors[one] @ vectors[other] >= np.float32(0.9) for other in founders if other < one)


def test_relevance_is_the_mean_of_the_nearest_five():
    """One stray neighbour among many makes a question little more relevant."""
    known = circle(0, 90, 90, 90, 90, 180, 180)
    assert relevance(circle(0), known).round(4).tolist() == [0.2]
    assert relevance(circle(90), known).round(4).tolist() == [0.8]


def test_relevance_with_little_known():
    """Fewer than five known questions all count; with none, nothing can be judged irrelevant."""
    assert relevance(circle(0, 90), circle(0, 90)).round(4).tolist() == [0.5, 0.5]
    assert relevance(circle(0, 90), np.empty((0, 2), np.float32)).tolist() == [1, 1]
    assert relevance(np.empty((0, 2), np.float32), circle(0)).tolist() == []


@given(arrays(np.int16, (7, 3), elements=st.integers(-2048, 2048)), st.integers(1, 7))
def test_relevance_is_the_same_in_blocks(steps, block):
    """Neither the size of a block nor the order of what is known matters."""
    vectors = steps.astype(np.float32) / 2048
    whole = relevance(vectors, vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_ROWS", block)
        patch.setattr(clusters, "_COLUMNS", block)
        assert relevance(vectors, vectors[::-1]).tolist() == whole.tolist()
