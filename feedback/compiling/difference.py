"""What changed from one frozen dataset to another: rows that came, rows that went, labels that turned."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from feedback.compiling.dataset import KINDS, SIDES, open_dataset
from feedback.records import digest


def difference(before: Path, after: Path) -> dict[str, Any]:
    """Rows in, out and with a changed label, counted by "kind: rule", and the settings that differ.

    A label changed where the same answer was disliked and is liked now or the other way round, or where the
    rejected answer of a pair is the chosen one now. RatchetError when one of the two was touched.
    """
    old, new = open_dataset(before), open_dataset(after)
    had, has = dict(_rows(before)), dict(_rows(after))
    changed = [key for key in had.keys() & has.keys() if had[key]["label"] != has[key]["label"]]
    return {
        "from": old["hash"],
        "to": new["hash"],
        "in": _counted(has[key] for key in has.keys() - had.keys()),
        "out": _counted(had[key] for key in had.keys() - has.keys()),
        "changed_label": _counted(has[key] for key in changed),
        "same": len(had.keys() & has.keys()) - len(changed),
        "settings": sorted(
            name
            for name in old["settings"].keys() | new["settings"].keys()
            if old["settings"].get(name) != new["settings"].get(name)
        ),
    }


def _counted(rows: Iterator[dict[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(f"{row['kind']}: {row['rule']}" for row in rows).items()))


def _rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of a dataset: what it is about without its label, and the label."""
    for kind in KINDS:
        for side in SIDES:
            file = folder / kind / f"{side}.parquet"
            for row in pyarrow.parquet.read_table(file).to_pylist() if file.exists() else ():
                about, label = _about(kind, row)
                key = digest([kind, side, row["prompt"], about])
                yield key, {"kind": kind, "rule": row["rule"], "label": label}


def _about(kind: str, row: dict[str, Any]) -> tuple[Any, Any]:
    if kind == "preference":
        answers = sorted((row["chosen"], row["rejected"]), key=digest)
        return answers, row["chosen"]
    return row["completion"], row.get("label")
