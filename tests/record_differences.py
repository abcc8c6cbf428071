"""Writes the differences of real runs for `ratchet gate simulate`, by hand: two rounds of one recipe, two seeds.

    python -m tests.record_differences OBJECTIVE RUN OTHER_RUN "how they were made" > differences.json

RUN won against its champion. Both were trained on the same dataset and examined on the same suites.
"""

import dataclasses
import json
import sys
from pathlib import Path

from eval.exam import Evaluation
from eval.gate import differences, items_by_metric
from eval.objective import Gate, load_objective
from eval.slices import slices
from eval.suites import Item, Suite


def pair_of(
    champion: Evaluation, candidate: Evaluation, suites: list[Suite], gate: Gate
) -> dict[str, dict[str, list[list[float | None]]]]:
    """The metrics and slices of a pair: for each cluster the difference of each item, None where not judged."""
    found: dict[str, dict[str, list[list[float | None]]]] = {"metrics": {}, "slices": {}}
    for suite in suites:
        for metric, items in items_by_metric(suite, champion).items():
            if not items or metric not in (gate.primary, *gate.guards):
                continue
            changes = differences(metric, items, champion, candidate)
            change = {item.id: round(float(value), 4) for item, value in zip(items, changes, strict=True)}
            found["metrics"][metric] = _by_cluster(suite.items, change)
            for name, part in slices(items).items() if metric == gate.primary else ():
                found["slices"][name] = _by_cluster(suite.items, {item.id: change[item.id] for item in part})
    return found


def _by_cluster(items: tuple[Item, ...], change: dict[str, float]) -> list[list[float | None]]:
    clusters: dict[str, list[float | None]] = {}
    for item in sorted(items, key=lambda item: item.id):
        clusters.setdefault(item.cluster, []).append(change.get(item.id))
    return list(clusters.values())


def main(objective: str, run: str, other_run: str, made: str) -> None:
    """Print the document."""
    gate = load_objective(Path(objective)).gate
    suites = [Suite.from_json(row) for row in json.loads((Path(run) / "suites.json").read_text("utf-8"))]
    champion, first = (_evaluation(run, role) for role in ("champion", "candidate"))
    second = _evaluation(other_run, "candidate")
    # Both seeds learnt from the corrections that they are asked about.
    learnt = [
        dataclasses.replace(
            suite, items=tuple(dataclasses.replace(item, known_to_champion=True) for item in suite.items)
        )
        for suite in suites
    ]
    pairs = {
        "null": pair_of(first, second, learnt, gate),
        "gain": pair_of(champion, first, suites, gate),
    }
    print(json.dumps({"made": made} | pairs, separators=(",", ":")))


def _evaluation(run: str, role: str) -> Evaluation:
    return Evaluation.from_json(json.loads((Path(run) / "evaluation.json").read_text("utf-8"))[role])


if __name__ == "__main__":
    main(*sys.argv[1:])
