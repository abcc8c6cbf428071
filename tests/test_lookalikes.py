"""Near-duplicates are found by what they share, at any number of texts."""

import random

from feedback.likeness.lookalikes import LookAlikes, sketch

QUESTION = "What is the best way to treat a mild sunburn on the back and shoulders at home?"


def index(*texts: str, threshold: float = 0.8) -> LookAlikes:
    """An index of these texts."""
    made = LookAlikes(threshold)
    for text in texts:
        made.add(sketch(text))
    return made


def test_a_sketch_is_the_same_everywhere():
    """Sides follow sketches: a release of the library that sketched otherwise would move them."""
    assert sketch("How long should I sleep each night?").hex() == (
        "0a15cd2132da3f6625e81b56fbe06a0d879a0edc631038e7a0797afa0226699e"
        "0baea74f1738bd3d6260e8f446faf25bfe4721c7b02745cf933609908d58ac46"
    )


def test_form_does_not_matter():
    """Capitals, punctuation and white space make no difference to a sketch."""
    assert sketch("what IS  a sunburn") == sketch("What is a sunburn?!")


def test_a_word_more_is_alike_and_another_subject_is_not():
    """One changed end keeps most word triples; one changed subject in a short question does not."""
    made = index(QUESTION, "What are the symptoms of asthma?")
    assert made.like(sketch(QUESTION + " Please")) == [0]
    assert made.like(sketch("What are the symptoms of measles?")) == []


def test_all_that_is_alike_is_found_in_the_order_of_arrival():
    """Numbers are those of arrival, and nothing in between is reported."""
    made = index(QUESTION, "Why do my ears hurt on a flight?", QUESTION.upper())
    assert made.like(sketch(QUESTION)) == [0, 2]
    assert len(made) == 3
    assert made[2] == sketch(QUESTION)


def test_growth_loses_nothing():
    """An index that made room several times still finds each text, and only that."""
    draw = random.Random(1)
    texts = [" ".join(str(draw.randrange(10_000)) for _ in range(8)) for _ in range(2000)]
    made = index(*texts)
    assert all(made.like(sketch(text)) == [number] for number, text in enumerate(texts))


def test_a_crowd_of_look_alikes_costs_no_more_than_a_few():
    """Of thousands alike only the latest are looked at, whoever fills the store with them."""
    mark = sketch(QUESTION)
    made = LookAlikes(0.8)
    for _ in range(2000):
        made.add(mark)
    found = made.like(mark)
    assert 0 < len(found) < 200
    assert found[-1] == 1999


def test_a_stricter_threshold_finds_less():
    """The threshold is the share of word triples."""
    words = [f"word{number}" for number in range(40)]
    changed = " ".join([*words[:36], "other", "words", "stand", "here"])
    assert index(" ".join(words), threshold=0.5).like(sketch(changed)) == [0]
    assert index(" ".join(words), threshold=0.95).like(sketch(changed)) == []
