"""Parts of a suite that are looked at by themselves: a gain on the whole may hide a loss on one of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eval.bootstrap import MIN_CLUSTERS
from eval.suites import Item
from feedback.compiling.cleaning import language_of


def slices(items: Sequence[Item]) -> dict[str, list[Item]]:
    """The items of each topic, number of turns, length, language and age of a correction, by name.

    Parts of fewer than `MIN_CLUSTERS` clusters are left out, and so is one that is the whole. A topic is a
    cluster as a whole, so within it each item counts as a cluster of its own.
    """
    parts: dict[str, list[Item]] = {}
    thirds = np.quantile([_length(item) for item in items], [1 / 3, 2 / 3]) if items else ()
    for item in items:
        parts.setdefault(f"topic {item.cluster.removeprefix('topic:')}", []).append(
            replace(item, cluster=item.id)
        )
        if item.messages:
            parts.setdefault(_turns(item), []).append(item)
        if language := language_of(item.reference or item.text or item.question):
            parts.setdefault(f"language {language}", []).append(item)
        if item.trained_before is not None:
            parts.setdefault(_age(item.trained_before), []).append(item)
        size = ("short", "medium", "long")[int(np.searchsorted(thirds, _length(item)))]
        parts.setdefault(f"{size} {_measured(item)}", []).append(item)
    return {
        name: part
        for name, part in sorted(parts.items())
        if len(part) < len(items) and len({item.cluster for item in part}) >= MIN_CLUSTERS
    }


def _age(trained_before: int) -> str:
    names = ("new corrections", "corrections trained on once before", "corrections trained on more often")
    return names[min(trained_before, 2)]


def _turns(item: Item) -> str:
    turns = sum(message["role"] == "user" for message in item.messages or ())
    return f"{turns} turn" if turns == 1 else f"{turns} turns" if turns < 3 else "3 or more turns"


def _measured(item: Item) -> str:
    """What the length of an item is taken of."""
    return "references" if item.reference else "texts" if item.text else "questions"


def _length(item: Item) -> int:
    return len(item.reference or item.text or item.question)
