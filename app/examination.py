"""The evaluation job of a round: `python -m app.examination RUN_DIR`, a child process of its own.

Puts together what `eval` may not import: the models that answer and the encoder that compares.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain import load_domain
from app.run_folder import RunFolder
from app.settings import Settings, read_settings
from eval.exam import Evaluation, examine
from eval.judge import Judged, hear, rival_answers
from eval.objective import Objective
from eval.suites import Suite
from feedback.errors import RatchetError
from feedback.pairs import Pair
from feedback.privacy import Redactor
from training.background import work_in_background
from training.registry import adapter_of


class Reporter:
    """Appends progress to a file, at most a line a second."""

    def __init__(self, file: Path, version: str):
        self._file, self._version, self._last, self._began = file, version, 0.0, time.monotonic()

    def __call__(self, suite: str, done: int, total: int) -> None:
        """Report that `done` of the `total` things to ask in `suite` are done."""
        if done < total and time.monotonic() - self._last < 1:
            return
        self._last = time.monotonic()
        line = {
            "stage": f"evaluate {self._version} on {suite}",
            "step": done,
            "steps": total,
            "elapsed_s": round(time.monotonic() - self._began, 1),
        }
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


def examine_version(
    settings: Settings,
    objective: Objective,
    suites: list[Suite],
    version: str,
    adapter: Path | None,
    progress: Any,
) -> Evaluation:
    """Examine one version on `suites`; what was asked before is not asked again."""
    from training.base_model import base_model_folder, base_model_sha256
    from training.encoder import Encoder, encoder_folder
    from training.responder import Responder

    base = base_model_folder(objective.base_model, settings.cache, log=_to_stderr)
    encoder = Encoder(encoder_folder(objective.encoder, settings.cache, log=_to_stderr))
    return examine(
        Responder(base, adapter, objective.sampling.repetition_penalty),  # as it is served
        encoder,
        suites,
        objective.answer_tokens,
        progress,
        version=version,
        base_model=base_model_sha256(base),
        language=objective.curation.language,
        folder=settings.home / "evaluations",
    )


def hear_judge(
    settings: Settings,
    objective: Objective,
    reviewed: Sequence[Pair],
    rivals: Sequence[Pair],
    progress: Any,
) -> Judged:
    """What the objective's judge says; one that cannot be asked has no licence, and the round goes on."""
    from app.judges import LocalJudge, endpoint_judge

    redact = Redactor(objective.curation.language, objective.curation.help_lines).redact
    rivals = [pair.redacted(redact) for pair in rivals]
    plan = objective.judge
    try:
        if plan.endpoint is None:
            from training.base_model import base_model_folder
            from training.responder import Responder

            base = base_model_folder(objective.base_model, settings.cache, log=_to_stderr)
            judge = LocalJudge(Responder(base), plan.question)
        else:
            judge = endpoint_judge(plan, os.environ)
        return hear(judge, plan, reviewed, rivals, objective.gate, progress)
    except RatchetError as error:
        return Judged.unheard(plan, str(error))


def main(run_path: str) -> int:
    """Examine the champion and the candidate of the round in `run_path`; exit status."""
    work_in_background()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings, run = read_settings(), RunFolder(Path(run_path))
    try:
        objective = load_domain(settings)
        suites = [Suite.from_json(document) for document in run.read("suites.json")]
        candidate = run.read("run.json")["version"]
        found = {}
        for role, version in (("champion", run.read("plan.json")["champion"]), ("candidate", candidate)):
            reporter = Reporter(run.path / "progress.jsonl", version)
            adapter = adapter_of(settings.home, version)
            found[role] = examine_version(settings, objective, suites, version, adapter, reporter)
        if objective.judge:
            frozen = run.read("reviewers_pairs.json") if run.has("reviewers_pairs.json") else []
            reviewed = [Pair.from_json(pair) for pair in frozen]
            rivals = rival_answers(suites, found["champion"], found["candidate"], objective.gate)
            run.write("judge.json", hear_judge(settings, objective, reviewed, rivals, reporter).to_json())
        run.write("evaluation.json", {role: evaluation.to_json() for role, evaluation in found.items()})
    except (RatchetError, OSError, MemoryError) as error:
        run.write(
            "failure.json", {"reason": f"evaluation: {error or type(error).__name__}", "resumable": True}
        )
        raise
    return 0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
