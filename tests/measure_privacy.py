"""How much personal data is found, and what else is taken for it: `python -m tests.measure_privacy [DATA]`.

A marked piece counts as found where a found piece of its type overlaps it; `whole` is the share of the marked
characters that lie in any found piece. The tables are those of docs/privacy.md.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from feedback.privacy import Found, Redactor

HERE = Path(__file__).resolve().parent.parent
SAME = {"DOMAIN_NAME": "URL", "DATE_OF_BIRTH": "DATE_TIME"}  # one thing by two names


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def overlaps(found: Found, span: dict) -> bool:
    return found.start < span["end"] and span["start"] < found.end


def scores(rows: Iterable[dict], redactor: Redactor) -> dict[str, dict[str, float]]:
    """Of each type: `marked` pieces, `found` pieces, `recall`, `precision` (of what was found) and `whole`."""
    count = {what: Counter() for what in ("marked", "hit", "found", "right", "signs", "covered")}
    for row in rows:
        found = redactor.found(row["text"])
        taken = {place for piece in found for place in range(piece.start, piece.end)}
        for span in row["spans"]:
            kind = SAME.get(span["type"], span["type"])
            count["marked"][kind] += 1
            count["hit"][kind] += any(overlaps(p, span) and SAME.get(p.type, p.type) == kind for p in found)
            count["signs"][kind] += span["end"] - span["start"]
            count["covered"][kind] += len(taken.intersection(range(span["start"], span["end"])))
        for piece in found:
            kind = SAME.get(piece.type, piece.type)
            marked = {SAME.get(s["type"], s["type"]) for s in row["spans"] if overlaps(piece, s)}
            count["found"][kind] += 1
            count["right"][kind] += kind in marked
    return {
        kind: {
            "marked": count["marked"][kind],
            "found": count["found"][kind],
            "recall": count["hit"][kind] / max(1, count["marked"][kind]),
            "precision": count["right"][kind] / max(1, count["found"][kind]),
            "whole": count["covered"][kind] / max(1, count["signs"][kind]),
        }
        for kind in sorted(count["marked"] | count["found"])
    }


def table(of: dict[str, dict[str, float]]) -> list[str]:
    """The scores as lines of Markdown; a type that was never found has no precision."""
    return [
        f"| {kind} | {s['marked']} | {s['recall']:.2f} | {s['precision'] if s['found'] else float('nan'):.2f} "
        f"| {s['whole']:.2f} |".replace("nan", "-")
        for kind, s in of.items()
    ]


def taken_from(texts: list[str], redactor: Redactor) -> dict[str, list[str]]:
    """What is found in `texts`, by type."""
    taken: dict[str, list[str]] = {}
    for text in texts:
        for piece in redactor.found(text):
            taken.setdefault(piece.type, []).append(text[max(0, piece.start - 30) : piece.end])
    return taken


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "shared" / "data"
    redactor = Redactor("en")
    print(f"By {redactor.method}:", *table(scores(lines(data / "pii.jsonl"), redactor)), sep="\n")
    answers = [row["answer"] for row in lines(data / "medquad_qa.jsonl")]
    began = time.process_time()
    taken = taken_from(answers, redactor)
    print(f"{len(answers) / (time.process_time() - began):,.0f} answers a second of processor time")
    for kind, pieces in taken.items():
        print(f"{kind}: {1000 * len(pieces) / len(answers):.1f} in 1,000 answers", *pieces, sep="\n    ")
    knowledge = lines(HERE / "objectives" / "medical" / "knowledge.jsonl")
    print(
        "the objective's knowledge:", taken_from([row["answer"] for row in knowledge], redactor) or "nothing"
    )


if __name__ == "__main__":
    main()
