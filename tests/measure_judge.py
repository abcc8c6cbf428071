"""How far the base model, as a judge, agrees with people: `python -m tests.measure_judge [DATA]`.

pandalm_choices.jsonl (PandaLM, Apache-2.0) holds pairs of answers, each judged by three people. Of 60 pairs, one of
each question before a second of any, the majority is what the judge must find; the intervals resample questions.
"""

import hashlib
import json
import sys
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

from app.judges import LocalJudge
from app.settings import read_settings
from eval.agreement import agree, license_judge
from eval.judge import compare
from eval.objective import Gate, JudgePlan
from feedback.pairs import Pair
from training.base_model import base_model_folder
from training.responder import Responder

PAIRS = 60
GATE = Gate(primary="similarity")
PLAN = JudgePlan(model="local", floor=0.4, margin=0.3, items=PAIRS)
PLACES = {0: "first", 1: "second", "tie": "tie"}


def read(file: Path) -> list[tuple[Pair, list[str]]]:
    """Each pair with a majority, the given answer first, and what the three people said."""
    judged = defaultdict(list)
    for line in file.read_text("utf-8").splitlines():
        row = json.loads(line)
        judged[row["turn"]].append(row)
    found = []
    for turn, rows in judged.items():
        *asked, given = rows[0]["messages"]
        answers = (given["content"], rows[0]["alternatives"][0])
        said = [PLACES[row["choice"]] for row in rows]
        (most, count), *_ = Counter(said).most_common(1)
        if count > 1 and all(isinstance(answer, str) for answer in answers):
            found.append((Pair(turn, asked[-1]["content"], tuple(asked), *answers, most, "choices"), said))
    return found


def draw(judged: list[tuple[Pair, list[str]]]) -> list[tuple[Pair, list[str]]]:
    """`PAIRS` of them, by a hash of their ids."""
    judged = sorted(judged, key=lambda one: hashlib.sha256(one[0].id.encode()).hexdigest())
    seen: Counter[str] = Counter()
    ranked = []
    for pair, said in judged:
        ranked.append((seen[pair.cluster], pair, said))
        seen[pair.cluster] += 1
    return [(pair, said) for _, pair, said in sorted(ranked, key=lambda one: one[0])[:PAIRS]]


def main() -> None:
    here = Path(__file__).resolve().parent.parent
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "shared" / "data"
    drawn = draw(read(data / "pandalm_choices.jsonl"))
    pairs, people = [pair for pair, _ in drawn], [said for _, said in drawn]
    majority, clusters = [pair.preferred for pair in pairs], [pair.cluster for pair in pairs]
    judge = LocalJudge(
        Responder(base_model_folder("smollm2-135m-instruct", read_settings().cache)), PLAN.question
    )
    opinions = compare(judge, pairs, lambda done, total: print(f"{done}/{total}", file=sys.stderr))
    found = agree(majority, [opinion.verdict for opinion in opinions], clusters, GATE)
    one_order = agree(majority, [opinion.forward for opinion in opinions], clusters, GATE)
    report = {
        "pairs": len(pairs),
        "questions": len(set(clusters)),
        "majority": Counter(majority),
        "asked as it stands": Counter(opinion.forward for opinion in opinions),
        "asked the other way round": Counter(opinion.backward for opinion in opinions),
        "orders disagree": sum(opinion.forward != opinion.backward for opinion in opinions),
        "both orders, kappa": [found.kappa, found.low, found.high],
        "one order, kappa": [one_order.kappa, one_order.low, one_order.high],
        "licence at a floor of 0.4": license_judge(PLAN.floor, found, {}, GATE),
        "people's kappa": [
            agree([said[a] for said in people], [said[b] for said in people], clusters, GATE).kappa
            for a, b in combinations(range(3), 2)
        ],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
