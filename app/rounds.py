"""Once around the circle: freeze, train, evaluate, decide, promote. Each stage leaves its file last, and a
round that was cut short goes on at the first one that is missing."""

from datetime import UTC, datetime
from typing import Any

from app.door import Ask
from app.jobs import ROUND, Log, cancellable, run_job
from app.run_folder import RunFolder, only_round
from app.settings import Settings, login
from eval.exam import Evaluation
from eval.gate import Decision, beside_judge, beside_lean, beside_withdrawn, decide
from eval.judge import Judged
from eval.objective import Objective
from eval.suites import Suite
from feedback.compiling.dataset import pairs_in_words
from feedback.errors import RatchetError
from training.registry import stages_of


def run_round(
    settings: Settings,
    objective: Objective,
    ask: Ask,
    promote: bool = True,
    max_steps: int | None = None,
    log: Log = print,
    who: str | None = None,
) -> dict[str, Any]:
    """One whole round, or the rest of one; returns its document (the contract of `ratchet round --json`)."""
    from app.tuning import search_if_due  # which trains as a round does

    who = who or login()

    def note() -> None:  # so that the schedule lets the round rest
        ask("note", kind="round_cancelled", who=who, why="Ctrl-C")

    with only_round(settings.home, who), cancellable(ROUND, note):
        search_if_due(settings, objective, ask, log)
        run = freeze(settings, ask, max_steps, log)
        run.attempt(who, promote)
        train(settings, run, log)
        evaluate(settings, run, log)
        decision = apply_gate(settings, objective, run)
        promoted = promote and decision.decision == "promote" and move_pointer(ask, run, decision)
        document = record(ask, run, decision, promoted)
        report(settings, objective, ask, run, log)
        return document


def freeze(settings: Settings, ask: Ask, max_steps: int | None, log: Log) -> RunFolder:
    """The unfinished round, or a new one with its dataset and suites frozen."""
    if run := RunFolder.unfinished(settings.home / "runs"):
        log(f"{run.name}: going on where it stopped")
        return run
    plan = ask("begin_round", max_steps=max_steps)
    counts = plan["counts"]
    log(
        f"{plan['run']}: dataset {plan['dataset_hash']} with {counts['sft']} supervised rows and "
        f"{counts['preference']} pairs, {counts['tokens']:,} tokens to train on"
        + (f", on from {plan['start']['version']}" if plan["start"] else "")
    )
    if plan["pairs"]:
        log(f"{plan['run']}: {pairs_in_words(plan['pairs'])}")
    return RunFolder(settings.home / "runs" / plan["run"])


def train(settings: Settings, run: RunFolder, log: Log) -> None:
    """SFT, then preference tuning, and KTO where it is asked for, in a child process; leaves adapter/ and run.json."""
    if not run.has("run.json"):
        run_job("training.job", settings, run, "training.log", log)
        made = run.read("run.json")
        log(
            f"{run.name}: the candidate is the adapter after {made['chosen'].upper()}: {made['chosen_because']}"
        )


def evaluate(settings: Settings, run: RunFolder, log: Log) -> None:
    """Champion and candidate on the frozen suites, in a child process; leaves evaluation.json.

    Where the objective names a judge, it is asked there too and leaves judge.json.
    """
    if not run.has("evaluation.json"):
        run_job("app.examination", settings, run, "evaluation.log", log)


def apply_gate(settings: Settings, objective: Objective, run: RunFolder) -> Decision:
    """The gate's decision on what was measured; leaves gate.json.

    After an erasure the candidate is compared with the champion that was withdrawn, too, by the scores that are
    left of it.
    """
    evaluation = run.read("evaluation.json")
    candidate = Evaluation.from_json(evaluation["candidate"])
    suites = [Suite.from_json(suite) for suite in run.read("suites.json")]
    champion, plan = Evaluation.from_json(evaluation["champion"]), run.read("plan.json")
    decision = decide(champion, candidate, suites, objective.gate, plan.get("decisions_before"))
    if withdrawn := plan.get("withdrawn"):
        left = RunFolder.evaluation_of(settings.home / "runs", withdrawn)
        decision = beside_withdrawn(
            decision,
            withdrawn,
            Evaluation.from_json(left) if left else None,
            candidate,
            suites,
            objective.gate,
        )
    if (pairs := plan.get("pairs")) and "dpo" in stages_of(run.read("run.json")):
        decision = beside_lean(decision, pairs["length_lean"], champion, candidate, objective.gate)
    if run.has("judge.json"):
        decision = beside_judge(decision, Judged.from_json(run.read("judge.json")), objective.gate)
    run.write("gate.json", decision.to_json())
    return decision


def move_pointer(ask: Ask, run: RunFolder, decision: Decision) -> bool:
    """Promote the candidate, unless another version became champion while it was trained."""
    plan, version = run.read("plan.json"), run.read("run.json")["version"]
    champion = ask("status")["champion"]
    if champion == version:
        return True  # the round was cut short after it had promoted
    if champion != plan["champion"]:
        return False
    ask(
        "promote",
        version=version,
        who=run.attempts()[-1]["who"],
        why=f"round {run.name}: {decision.reasons[0]}",
    )
    return True


def record(ask: Ask, run: RunFolder, decision: Decision, promoted: bool) -> dict[str, Any]:
    """Write decision.json and log the round."""
    plan, made = run.read("plan.json"), run.read("run.json")
    verdict = decision.to_json()
    reasons = list(verdict["reasons"])
    if decision.decision == "promote" and not promoted:
        reasons.append("not promoted: it was asked not to be, or the champion changed while it was trained")
    document = {
        "round": run.name,
        "dataset": plan["dataset_hash"],
        "counts": plan["counts"],
        "decision": decision.decision,
        "reasons": reasons,
        **{key: verdict[key] for key in ("metrics", "slices", "detectable", "items_needed")},
        "version": made["version"],
        "promoted": promoted,
        "suites": {suite["name"]: suite["hash"] for suite in run.read("suites.json")},
        "figures": {role: _figures(document) for role, document in run.read("evaluation.json").items()},
        "champion": plan["champion"],
        "chosen_stage": made["chosen"],
        "chosen_because": made["chosen_because"],
        "last_signal": plan["last_signal"],
    }
    ask("finish_round", run=run.name, document=document)
    run.write("decision.json", document)
    return document


def report(settings: Settings, objective: Objective, ask: Ask, run: RunFolder, log: Log) -> None:
    """Write report.html, for people: what was decided, why, and on what grounds; without personal data.

    The round is over by then, whatever becomes of its report.
    """
    from app.reports import Reports, Voices
    from app.web.round_report import CASES, round_report
    from feedback.privacy import Redactor

    curation = objective.curation
    redact = Redactor(curation.language, curation.help_lines).redact
    try:
        voices = Voices.from_json(ask("voices", run=run.name))
        found = Reports(settings.home, objective.gate).findings(run.name, CASES, redact)
        page = round_report(objective.title, objective.gate, found, voices, datetime.now(UTC))
        run.write_page("report.html", page)
    except (RatchetError, OSError) as error:
        log(f"{run.name}: decided, but no report was written ({error}); the rounds page shows one")


def _figures(evaluation: dict[str, Any]) -> dict[str, float]:
    """What is measured beside the gate's metrics: baselines, perplexity, lengths; by suite and name."""
    judged = {metric for suite in evaluation["suites"].values() for metric in suite["scores"]}
    return {
        f"{name}.{figure}": value
        for name, suite in evaluation["suites"].items()
        for figure, value in suite["figures"].items()
        if figure not in judged
    }
