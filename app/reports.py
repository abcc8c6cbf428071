"""What the rounds left behind, as a person reads it: how far one is, what it decided, what it won and lost."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from app.run_folder import Holder, RunFolder
from app.searches import searches
from eval.bootstrap import interval
from eval.objective import Gate
from feedback.satisfaction import Satisfaction
from training.registry import BASE, versions

STEPS = ("freeze", "sft", "dpo", "kto", "choose", "champion", "candidate", "decide")
OPTIONAL = {"dpo", "kto"}  # of these, what a round has not begun may have been left out


@dataclass(frozen=True)
class Report:
    """One round."""

    name: str
    plan: Mapping[str, Any]  # plan.json
    made: Mapping[str, Any] | None  # run.json
    decided: Mapping[str, Any] | None  # decision.json
    failure: str | None  # why its last job failed
    resumable: bool  # it can go on where it stopped
    attempts: Sequence[Mapping[str, Any]]  # {"who", "at", "promotes"} each
    progress: Sequence[Mapping[str, Any]]  # the lines of progress.jsonl but the looks
    examined: bool  # evaluation.json is there
    looks: Sequence[Mapping[str, Any]] = ()  # at the validation side, while SFT ran

    @property
    def version(self) -> str | None:
        """What it made, once it has."""
        return self.made["version"] if self.made else None

    @property
    def looked(self) -> list[tuple[int, float]]:
        """(step, validation loss) of SFT; what was trained again after a stop counts once."""
        return sorted({line["step"]: line["loss"] for line in self.looks}.items())

    @property
    def step(self) -> str:
        """Which of STEPS it is at, or stopped at."""
        if self.examined:
            return "decide"
        last = self.progress[-1]["stage"] if self.progress else "sft"
        if not self.made:
            return last
        return "candidate" if last.startswith(f"evaluate {self.version} on ") else "champion"

    @property
    def steps_taken(self) -> set[str]:
        """Those of STEPS that are done."""
        done = set(STEPS[: STEPS.index(self.step)]) if not self.decided else set(STEPS)
        return done - (OPTIONAL - {line["stage"] for line in self.progress})

    @property
    def seconds_left(self) -> float | None:
        """Until the stage of the last line is done; None where nothing says how fast it goes."""
        if not self.progress:
            return None
        last = self.progress[-1]
        if "seconds_left" in last:
            return last["seconds_left"]
        first = next(line for line in self.progress if line["stage"] == last["stage"])
        steps, seconds = last["step"] - first["step"], last["elapsed_s"] - first["elapsed_s"]
        return seconds / steps * (last["steps"] - last["step"]) if steps > 0 and seconds > 0 else None

    def seconds(self) -> dict[str, float]:
        """What each of STEPS took, where progress.jsonl says so; asking again after a stop is counted."""
        found: dict[str, float] = {}
        champion = f"evaluate {self.plan['champion']} on "
        last: tuple[str, float] = ("", 0.0)
        for line in self.progress:
            step, elapsed = line["stage"], line["elapsed_s"]
            if step.startswith("evaluate "):
                step = "champion" if step.startswith(champion) else "candidate"
                goes_on = last[0] == step and last[1] <= elapsed
                found[step] = found.get(step, 0.0) + elapsed - (last[1] if goes_on else 0.0)
            else:
                found[step] = elapsed  # training goes on counting after a stop
            last = (step, elapsed)
        return found

    def losses(self) -> dict[str, list[tuple[int, float]]]:
        """(step, loss) by training stage."""
        return self.course("loss")

    def course(self, figure: str) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of a figure by training stage; what was trained again after a stop counts once."""
        found: dict[str, dict[int, float]] = {}
        for line in self.progress:
            if figure in line:
                found.setdefault(line["stage"], {})[line["step"]] = line[figure]
        return {stage: sorted(points.items()) for stage, points in found.items()}


@dataclass(frozen=True)
class Score:
    """One version by one metric: the mean over a suite's items, with its interval."""

    version: str
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Case:
    """One item of the primary metric as both versions answered it."""

    question: str
    reference: str | None
    champion: str  # the answers
    candidate: str
    before: float  # the scores
    after: float


@dataclass(frozen=True)
class Voices:
    """What people had said when a report was written."""

    liked: Sequence[Satisfaction]  # by version, in the order in which they first answered
    weeks: Sequence[tuple[date, Satisfaction]]  # Mondays, the oldest first
    behind: Mapping[str, int]  # {role: how many people said what the dataset was made of}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Voices":
        """Those that the operation `voices` gave."""
        return cls(
            [Satisfaction.from_json(one) for one in document["liked"]],
            [(date.fromisoformat(week), Satisfaction.from_json(one)) for week, one in document["weeks"]],
            document["behind"],
        )


@dataclass(frozen=True)
class Findings:
    """All that one finished round left behind."""

    report: Report
    scores: Mapping[str, Sequence[Score]]  # the primary and the guards, of every version examined until then
    won: Sequence[Case]
    lost: Sequence[Case]
    dataset: Mapping[str, Any] | None  # its manifest; None once it was erased
    before: Sequence[
        Report
    ]  # the rounds whose candidates were its champion, and that one's; the oldest first
    search: Mapping[str, Any] | None  # that found the settings it went by, if one did


class Reports:
    """The rounds of the home, judged by `gate`. What is complete is read once."""

    def __init__(self, home: Path, gate: Gate):
        self._home, self._runs, self._gate = home, home / "runs", gate
        self._finished: dict[str, Report] = {}
        self._evaluations: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}  # by round
        self._scores: dict[tuple[str, str, str], Score] = {}  # by version, the suite's hash and metric

    def all(self) -> list[Report]:
        """Every round that began, the newest first."""
        plans = self._runs.glob("r*/plan.json")
        return [self.one(plan.parent.name) for plan in sorted(plans, reverse=True)]

    def one(self, name: str) -> Report:
        """The round `name`, which began."""
        if name not in self._finished:
            report = _read(RunFolder(self._runs / name))
            if report.decided is None:
                return report
            self._finished[name] = report
        return self._finished[name]

    def complaint(self) -> str | None:
        """Why the last round that the server started ended before its time; None where none did."""
        log, holder = self._home / "round.log", Holder.read(self._home)
        if not log.exists() or (holder and log.stat().st_mtime < holder.started_at.timestamp()):
            return None  # another one came after it
        *_, last = ["", *log.read_text("utf-8", "replace").splitlines()]
        return last.removeprefix("ratchet: ") if last.startswith("ratchet: ") else None

    def versions(self) -> list[str]:
        """Every version that can serve, the base first."""
        return [BASE, *versions(self._home)]

    def metrics(self) -> list[str]:
        """Everything that a version was scored by, the primary first."""
        found = {metric for report in self.all() for metric, _, _ in self._examined(report)}
        return sorted(found, key=lambda metric: (metric != self._gate.primary, metric))

    def scores(self, metric: str, until: str | None = None) -> list[Score]:
        """Every version that was examined on the same items as the last one was, the oldest first.

        The last one is that of the round `until`, if it is named.
        """
        rounds = [report for report in reversed(self.all()) if until is None or report.name <= until]
        entries = [(name, e) for report in rounds for m, name, e in self._examined(report) if m == metric]
        latest = entries[-1][1]["hash"] if entries else None
        newest = {version: suite for version, suite in entries if suite["hash"] == latest}
        return [self._score(version, suite, metric) for version, suite in newest.items()]

    def has_cases(self, name: str) -> bool:
        """Whether what was asked and answered in the round `name` is still there: an erasure removes it."""
        return RunFolder(self._runs / name).has("suites.json")

    def cases(
        self, name: str, count: int, shown: Callable[[str], str] = str
    ) -> tuple[list[Case], list[Case]]:
        """The largest wins and the largest losses of the round `name`, by the primary metric; none when erased.

        Their texts are as `shown` gives them.
        """
        run = RunFolder(self._runs / name)
        if not self.has_cases(name):
            return [], []
        evaluation = run.read("evaluation.json")
        before, after = (
            next(s for s in evaluation[role]["suites"].values() if self._gate.primary in s["scores"])
            for role in ("champion", "candidate")
        )
        items = {item["id"]: item for suite in run.read("suites.json") for item in suite["items"]}
        was, became = (side["scores"][self._gate.primary] for side in (before, after))

        def case(item: str) -> Case:
            answers = before["answers"].get(item, ""), after["answers"].get(item, "")
            question, reference = _question(items[item]), items[item]["reference"]
            texts = [text and shown(text) for text in (question, reference, *answers)]
            return Case(*texts, was[item], became[item])

        ranked = sorted(was, key=lambda item: (became[item] - was[item], item))
        won = [item for item in reversed(ranked) if became[item] > was[item]]
        lost = [item for item in ranked if became[item] < was[item]]
        return [case(item) for item in won[:count]], [case(item) for item in lost[:count]]

    def findings(self, name: str, count: int, shown: Callable[[str], str]) -> Findings:
        """The finished round `name`, with as many wins and losses as `count`; see `cases`."""
        report = self.one(name)
        won, lost = self.cases(name, count, shown)
        manifest = self._home / "datasets" / report.plan["dataset_hash"] / "manifest.json"
        found = {metric: self.scores(metric, name) for metric in (self._gate.primary, *self._gate.guards)}
        return Findings(
            report,
            {metric: scores for metric, scores in found.items() if scores},
            won,
            lost,
            json.loads(manifest.read_text("utf-8")) if manifest.exists() else None,
            self._before(report),
            self._search(report),
        )

    def _search(self, report: Report) -> dict[str, Any] | None:
        source = (report.plan.get("settings") or {}).get("from", "")
        return next((one for one in searches(self._home) if source.startswith(f"{one['search']},")), None)

    def _before(self, report: Report) -> list[Report]:
        made = {other.version: other for other in self.all() if other.name < report.name}
        champion = made.get(report.plan["champion"])
        return [*self._before(champion), champion] if champion else []

    def _examined(self, report: Report) -> list[tuple[str, str, Mapping[str, Any]]]:
        """(metric, version, what it left of a suite) of a finished round; without answers."""
        if report.decided is None:
            return []
        if report.name not in self._evaluations:
            evaluations = RunFolder(self._runs / report.name).read("evaluation.json").values()
            self._evaluations[report.name] = [
                (metric, evaluation["version"], {key: suite[key] for key in ("hash", "scores", "clusters")})
                for evaluation in evaluations
                for suite in evaluation["suites"].values()
                for metric in suite["scores"]
                if suite["scores"][metric]
            ]
        return self._evaluations[report.name]

    def _score(self, version: str, suite: Mapping[str, Any], metric: str) -> Score:
        key = version, suite["hash"], metric
        if key not in self._scores:
            scores, gate = suite["scores"][metric], self._gate
            values = np.array(list(scores.values()))
            clusters = [suite["clusters"][item] for item in scores]
            low, high = interval(values[:, None], clusters, gate.confidence, gate.resamples, gate.seed)
            self._scores[key] = Score(
                version, float(values.mean()), float(low[0]), float(high[0]), len(values)
            )
        return self._scores[key]


def _read(run: RunFolder) -> Report:
    failure = run.read("failure.json") if run.has("failure.json") else None
    lines = run.progress_lines()
    return Report(
        name=run.name,
        plan=run.read("plan.json"),
        made=run.read("run.json") if run.has("run.json") else None,
        decided=run.read("decision.json") if run.has("decision.json") else None,
        failure=failure["reason"] if failure else None,
        resumable=run.can_go_on(),
        attempts=run.attempts(),
        progress=[line for line in lines if "look" not in line],
        examined=run.has("evaluation.json"),
        looks=[line for line in lines if "look" in line],
    )


def _question(item: Mapping[str, Any]) -> str:
    return item["messages"][-1]["content"] if item["messages"] else item["text"]
