"""The training job: `python -m training.job RUN_DIR`, a child process that makes one version.

It reads plan.json and leaves sft/, dpo/, kto/, adapter/ and, last, run.json. Started again on the same folder it
goes on from its last checkpoint. On failure it leaves failure.json {"reason", "resumable"} and exits 1.
"""

import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from feedback.errors import RatchetError
from training.background import work_in_background
from training.interruption import Cancelled, Interruption, Obstacle

FULL = (errno.ENOSPC, errno.EDQUOT)
TORCH_COULD_NOT_WRITE = "unexpected pos"  # all that torch.save says of a full disk


def main(arguments: list[str]) -> int:
    """Run the job on the folder named by the only argument; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m training.job RUN_DIR", file=sys.stderr)
        return 2
    run_dir = Path(arguments[0]).absolute()
    (run_dir / "failure.json").unlink(missing_ok=True)
    # Nothing is fetched or reported from here; the libraries read these when they are first imported.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_OFFLINE": "1"}
    work_in_background()
    interruption = Interruption()
    try:
        for asked in (signal.SIGTERM, signal.SIGINT):
            signal.signal(asked, interruption.ask)
        from training.candidate import make_candidate

        make_candidate(run_dir, interruption)
    except Exception as error:  # the edge of the process: whatever it was, the round must learn why
        traceback.print_exc()
        _leave(run_dir, *reason_of(error, interruption.asked))
        return 1
    return 0


def reason_of(error: Exception, asked: bool = False) -> tuple[str, bool]:
    """What to tell a person in one line, and whether the same job may end better when started again.

    `asked` says that somebody asked the job to stop.
    """
    if asked and not isinstance(error, Cancelled):
        error = Cancelled()  # a library made something else of it, as an import does
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, (Cancelled, Obstacle)):
        return first, True
    if isinstance(error, RatchetError):
        return first, False
    # safetensors wraps the system's error in its own type and keeps its words
    words = (*map(os.strerror, FULL), TORCH_COULD_NOT_WRITE)
    if getattr(error, "errno", None) in FULL or any(said in str(error) for said in words):
        return "the disk is full; free some space and run `ratchet round` again", True
    return f"training crashed: {type(error).__name__}: {first}; training.log has the whole story", False


def _leave(run_dir: Path, reason: str, resumable: bool) -> None:
    """Write failure.json, whole or not at all; of several processes the first to fail knows the cause."""
    if (run_dir / "failure.json").exists():
        return
    draft = run_dir / f".failure.json.{os.getpid()}"
    try:
        draft.write_text(json.dumps({"reason": reason, "resumable": resumable}), "utf-8")
        os.replace(draft, run_dir / "failure.json")
    except OSError as error:
        draft.unlink(missing_ok=True)
        print(f"failure.json could not be written: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
