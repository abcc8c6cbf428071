"""A suite is looked at by topic, number of turns, length, language and how old a correction is."""

import dataclasses

from eval.slices import slices
from eval.suites import Item


def item(number, cluster="", reference="", turns=1, text=None):
    messages = None if text else ({"role": "user", "content": "What is it?"},) * turns
    return Item(f"i{number:02}", "asked", cluster or f"c{number}", messages, text, reference=reference)


def sizes(items):
    return {name: len(part) for name, part in slices(items).items()}


def test_lengths_are_cut_into_thirds():
    """By the length of the expert's answer where there is one, else of the text."""
    answered = [item(number, reference="x" * (number + 1)) for number in range(30)]
    assert sizes(answered) == {"short references": 10, "medium references": 10, "long references": 10}
    assert slices(answered)["short references"] == answered[:10]
    assert set(sizes([item(n, text="x" * (n + 1)) for n in range(30)])) == {
        "short texts",
        "medium texts",
        "long texts",
    }


def test_turns_are_what_the_user_said():
    """One, two, and more together."""
    items = [item(number, turns=number // 10 + 1) for number in range(40)]
    assert sizes(items) == {"1 turn": 10, "2 turns": 10, "3 or more turns": 20}


def test_a_topic_is_a_slice_whose_items_stand_alone():
    """One cluster cannot be drawn from; its items can."""
    items = [item(number, "topic:gout" if number < 12 else "") for number in range(40)]
    assert sizes(items) == {"topic gout": 12}
    assert len({item.cluster for item in slices(items)["topic gout"]}) == 12


def test_languages_are_told_apart_where_they_can_be():
    """By the expert's answer; what is too short to tell belongs to none."""
    texts = {
        "en": "Drink enough water every day and see a doctor when the pain does not go away.",
        "de": "Trinken Sie jeden Tag genug Wasser und gehen Sie zum Arzt, wenn die Schmerzen bleiben.",
        "": "Yes.",
    }
    items = [item(number, reference=text) for number, text in enumerate(list(texts.values()) * 11)]
    found = {name: size for name, size in sizes(items).items() if name.startswith("language")}
    assert found == {"language en": 11, "language de": 11}


def test_corrections_are_told_apart_by_their_age():
    """New in this round, trained on in one before, in several."""
    items = [
        dataclasses.replace(item(number), trained_before=number // 10 if number < 40 else None)
        for number in range(50)
    ]
    assert sizes(items) == {
        "new corrections": 10,
        "corrections trained on once before": 10,
        "corrections trained on more often": 20,
    }


def test_small_slices_and_the_whole_are_left_out():
    """Of nine clusters nothing sure can be said, and a slice of everything says nothing new."""
    assert sizes([item(number) for number in range(40)]) == {}
    assert sizes([item(number, turns=1 + (number < 9)) for number in range(40)]) == {"1 turn": 31}
    few = [item(number, f"c{number % 3}", turns=1 + (number < 20)) for number in range(24)]
    assert sizes(few) == {}
    assert slices([]) == {}
