"""What good means for one domain, read from `objective.toml`; an unknown key is an error."""

import math
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from eval import scoring
from feedback.compiling.curation import Curation
from feedback.errors import UsageError

Kind = Literal[
    "questions", "multiple_choice", "taught", "text", "corrections", "prompts", "disputes", "pairs"
]

# The gate takes this one itself: `corrections_lean` on those corrections that the champion was trained on, gained
# and lost alike. Of those that it honoured alone chance could only take away.
KEPT = "corrections_kept"
LEAN = "corrections_lean"
HONOURED = "corrections_honoured"

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]  # part of file names


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(_Frozen):
    """The words on the chat page."""

    consent: str
    disclaimer: str
    examples: tuple[str, ...] = ()
    reasons_up: tuple[str, ...] = ()
    reasons_down: tuple[str, ...] = ()


class Sampling(_Frozen):
    """How the served model answers; temperature 0 is greedy."""

    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    repetition_penalty: float = Field(1.1, ge=1)


class RedFlag(_Frozen):
    """A rule that acts before the model: `patterns` are searched case-insensitively."""

    name: str
    patterns: tuple[str, ...]
    unless: tuple[str, ...] = ()
    message: str

    @model_validator(mode="after")
    def _patterns_compile(self) -> "RedFlag":
        for pattern in (*self.patterns, *self.unless):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from None
        return self

    def matches(self, text: str) -> bool:
        """Whether `text` (any Unicode) shows this flag."""
        return self._found_in(_plain(text))

    def _found_in(self, plain: str) -> bool:
        return any(re.search(p, plain, re.IGNORECASE) for p in self.patterns) and not any(
            re.search(p, plain, re.IGNORECASE) for p in self.unless
        )


def _plain(text: str) -> str:
    """`text` in one form: compatible characters united, invisible ones left out, single spaces."""
    united = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    visible = "".join(c for c in united if unicodedata.category(c) != "Cf")
    return " ".join(visible.split())


class SuitePlan(_Frozen):
    """A set of items to draw and the metrics that are taken on it."""

    kind: Kind
    file: str | None = None  # JSON Lines in the objective's folder; see eval.suites
    items: int = Field(ge=1)  # how many are drawn at most; the primary suite needs all of them
    metrics: tuple[str, ...] = Field(min_length=1)


class Guard(_Frozen):
    """What a candidate may not lose: the lower bound of the difference must lie above -margin."""

    margin: float = Field(gt=0)
    spread: float = Field(gt=0)  # standard deviation of a per-item difference, measured on real runs


class Gate(_Frozen):
    """The decision rule, frozen before any training."""

    primary: str
    confidence: float = Field(0.95, gt=0.5, lt=1)  # of the two-sided interval
    resamples: int = Field(10_000, ge=1000)
    seed: int = 1
    guards: dict[str, Guard] = {}
    effect: float | None = Field(None, gt=0)  # the smallest gain of the primary that is worth promoting
    reuse: int = Field(20, ge=1)  # decisions that a suite of questions may make before it is drawn anew
    slice_margin: float | None = Field(None, gt=0)  # what no slice of the primary may surely lose

    def corrected(self, count: int) -> "Gate":
        """With the confidence at which the intervals of `count` parts hold together (Bonferroni)."""
        return self.model_copy(update={"confidence": 1 - (1 - self.confidence) / max(count, 1)})

    def reach(self, guard: Guard, items: int) -> float:
        """How far below its middle the interval of `guard`'s difference is expected to reach on `items`."""
        return self._deviations * guard.spread / math.sqrt(items)

    def items_needed(self, guard: Guard) -> int:
        """The fewest items on which an unchanged candidate is expected to stay within the margin."""
        return math.floor((self._deviations * guard.spread / guard.margin) ** 2) + 1

    @property
    def _deviations(self) -> float:
        # Both bounds count, as the interval is two-sided although only the lower one decides.
        return NormalDist().inv_cdf((1 + self.confidence) / 2)


class JudgePlan(_Frozen):
    """A model that is asked which of two answers is better; it counts only while it agrees with reviewers."""

    model: str = Field(min_length=1)  # "local": the base model; else a model's name at the endpoint
    endpoint: str | None = None  # of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1
    key_variable: str | None = Field(
        None, min_length=1
    )  # the environment variable that holds the endpoint's key
    floor: float = Field(gt=0, lt=1)  # what the lower bound of its kappa with reviewers must lie above
    margin: float = Field(gt=0, lt=1)  # what the candidate may lose by its verdicts, which are -1, 0 or 1
    items: int = Field(ge=1)  # how many pairs it is asked about at most
    question: str = Field(
        "Which answer is better: more correct, safer, and easier to understand? Reply with A or B alone, or with "
        "tie where neither is better.",
        min_length=1,
    )  # follows both answers

    @model_validator(mode="after")
    def _is_somewhere(self) -> "JudgePlan":
        if (self.model == "local") != (self.endpoint is None):
            raise ValueError('a model needs an endpoint; "local" is the base model and needs none')
        if self.endpoint is None and self.key_variable:
            raise ValueError("key_variable is for an endpoint")
        if self.endpoint is not None:
            parts = urlsplit(self.endpoint)
            named = parts.scheme in ("http", "https") and parts.hostname
            if not named or parts.username or parts.password or parts.query or parts.fragment:
                raise ValueError(
                    f"the endpoint {self.endpoint!r} is no plain http or https address; a key stands in the "
                    "environment variable that key_variable names"
                )
        return self


class Schedule(_Frozen):
    """When rounds start by themselves."""

    every_hours: float = Field(168, gt=0)
    min_signals: int = Field(50, ge=1)


class Objective(_Frozen):
    """One domain, whole."""

    folder: Path
    title: str
    system_prompt: str
    base_model: str  # a packaged name, a hub id or a folder
    encoder: str  # a packaged name, a hub id or a folder
    page: Page
    knowledge: tuple[str, ...] = ()  # JSON Lines files in the folder
    pin_minutes: float = Field(30, ge=0)  # an idle conversation keeps its version this long
    sampling: Sampling = Sampling()
    curation: Curation = Curation()
    training: dict[str, Any] = {}  # checked by training.recipe.Recipe
    suites: dict[_Name, SuitePlan]
    answer_tokens: int = Field(120, ge=1)  # the longest answer that a suite asks for
    gate: Gate
    judge: JudgePlan | None = None
    schedule: Schedule = Schedule()
    red_flag: tuple[RedFlag, ...] = ()

    def first_red_flag(self, text: str) -> RedFlag | None:
        """The first rule that `text` trips, before any model is asked."""
        plain = _plain(text)
        return next((rule for rule in self.red_flag if rule._found_in(plain)), None)

    @model_validator(mode="after")
    def _files_exist(self) -> "Objective":
        for name in (*self.knowledge, *(plan.file for plan in self.suites.values() if plan.file)):
            if not (self.folder / name).is_file():
                raise ValueError(f"it names the file {name!r}, which is not in {self.folder}")
        return self

    @model_validator(mode="after")
    def _gate_can_decide(self) -> "Objective":
        plan_of = self._plan_of_each_metric()
        for metric in (self.gate.primary, *self.gate.guards):
            if metric not in plan_of or (metric == KEPT == self.gate.primary):
                raise ValueError(f"the gate names the metric {metric!r}, which no suite takes")
            if metric != KEPT and not scoring.declaration(metric).may_guard:
                raise ValueError(
                    f"the gate names the metric {metric!r}, which may decide nothing (its script says why); "
                    "take it in a suite only, it is reported"
                )
        for metric, guard in self.gate.guards.items():
            items = self.judged_on(metric, plan_of[metric])
            reach = self.gate.reach(guard, items)
            if reach >= guard.margin:
                raise ValueError(
                    f"gate.guards.{metric}: {items} items cannot resolve a margin of {guard.margin:g} (the "
                    f"interval reaches {reach:.3g} to each side); give it {self.gate.items_needed(guard)} "
                    "items or a wider margin"
                )
        return self

    @model_validator(mode="after")
    def _judge_can_be_asked(self) -> "Objective":
        if self.judge is None:
            return self
        plan = self._plan_of_each_metric()[self.gate.primary]
        if not any("answers" in scoring.declaration(metric).needs.values() for metric in plan.metrics):
            raise ValueError(
                "judge: the suite of the primary metric asks for no answers that it could compare"
            )
        items = min(self.judge.items, plan.items)
        widest = Guard(margin=self.judge.margin, spread=1)  # no verdicts of -1, 0 and 1 are spread wider
        if self.gate.reach(widest, items) >= widest.margin:
            raise ValueError(
                f"judge: {items} items cannot resolve a margin of {widest.margin:g} (the interval may reach "
                f"{self.gate.reach(widest, items):.3g} to each side); give it {self.gate.items_needed(widest)} "
                "items or a wider margin"
            )
        return self

    @staticmethod
    def judged_on(metric: str, plan: SuitePlan) -> int:
        """On how many items of a full suite `metric` is judged: those that the champion knew take turns with others."""
        return plan.items // 2 if metric == KEPT else plan.items

    def _plan_of_each_metric(self) -> dict[str, SuitePlan]:
        plan_of: dict[str, SuitePlan] = {}
        for name, plan in self.suites.items():
            for metric in plan.metrics:
                if metric not in (possible := scoring.metrics_of(plan.kind)):
                    raise ValueError(
                        f"suites.{name} takes the metric {metric!r}; suites of {plan.kind} "
                        f"can take {', '.join(possible)}"
                    )
                if metric in plan_of:
                    raise ValueError(
                        f"suites.{name} takes the metric {metric!r} again; one suite takes it once"
                    )
                plan_of[metric] = plan
        if LEAN in plan_of:
            plan_of[KEPT] = plan_of[LEAN]
        return plan_of


def load_objective(folder: Path) -> Objective:
    """The objective in `folder`; UsageError names the file and the key when it is not valid.

    Red-flag rules may stand in a file of their own, red_flags.toml.
    """
    file = folder / "objective.toml"
    if not file.is_file():
        raise UsageError(f"{file} does not exist; name an objective's folder with --objective")
    content = _read_toml(file)
    if "folder" in content:
        raise UsageError(f"{file}: folder: unknown key")
    flags = folder / "red_flags.toml"
    if flags.is_file():
        rules = _read_toml(flags)
        if unknown := sorted(rules.keys() - {"red_flag"}):
            raise UsageError(f"{flags}: {unknown[0]}: unknown key")
        if "red_flag" in content:
            raise UsageError(
                f"{file}: red_flag: the rules stand in {flags.name} already; keep one of the two"
            )
        content |= rules
    try:
        return Objective.model_validate(content | {"folder": folder})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        blamed = flags if flags.is_file() and first["loc"][:1] == ("red_flag",) else file
        raise UsageError(f"{blamed}: {place + ': ' if place else ''}{in_words(first)}") from None


def in_words(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says to a person."""
    plain = {"extra_forbidden": "unknown key", "missing": "is missing"}
    return plain.get(error["type"]) or error["msg"].removeprefix("Value error, ")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: {error}") from None
