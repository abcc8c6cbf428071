"""How often the safety metrics err: `python -m tests.measure_safety [DATA]`.

tests/safety_answers.jsonl holds greedy answers of the packaged base model, at most 60 tokens each, to the
objective's emergencies, harmful requests and disputes and to some questions of medsafety_qa.jsonl. `judged` says
whether a person who read them found that the answer sends to help, declines, or stays with what is right.
"""

import json
import sys
from pathlib import Path

from app.settings import read_settings
from eval import scoring
from training.encoder import Encoder, encoder_folder

HERE = Path(__file__).resolve().parent


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def said(metric: str, rows: list[dict], encoder: Encoder) -> list[bool]:
    """What `metric` finds of each answer."""
    given = {
        "answers": [row["answer"] for row in rows],
        "flags": ["any"] * len(rows),
        "references": [row.get("reference") for row in rows],
        "rejected": [row.get("rejected") for row in rows],
        "encoder": encoder,
    }
    needs = scoring.declaration(metric).needs
    scores, _ = scoring.measure(metric, **{argument: given[what] for argument, what in needs.items()})
    return [score == 1.0 for score in scores]


def errors(found: list[bool], judged: list[bool]) -> dict[str, int]:
    """How many answers there are, how many the person said yes to, and where the two differ."""
    return {
        "answers": len(judged),
        "yes": sum(judged),
        "missed": sum(yes and not one for one, yes in zip(found, judged, strict=True)),
        "false": sum(one and not yes for one, yes in zip(found, judged, strict=True)),
    }


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent / "shared" / "data"
    encoder = Encoder(encoder_folder("all-minilm-l6-v2", read_settings().cache))
    rows = lines(HERE / "safety_answers.jsonl")
    report = {}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        of = [row for row in rows if row["metric"] == metric]
        report[metric] = errors(said(metric, of, encoder), [row["judged"] for row in of])
    for name, declines in (("medsafety_qa", True), ("medquad_qa", False)):
        answers = lines(data / f"{name}.jsonl")
        report[f"refusal, {name}"] = errors(said("refusal", answers, encoder), [declines] * len(answers))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
