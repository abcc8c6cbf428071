"""The training job: `python -m training.job RUN_DIR`, a child process that makes one version.

It reads plan.json and leaves sft/, dpo/, adapter/ and, last, run.json. Started again on the same folder it
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
from training.interruption import Cancelled, Interruption


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
        _leave(run_dir, *reason_of(error))
        return 1
    return 0


def reason_of(error: Exception) -> tuple[str, bool]:
    """What to tell a person in one line, and whether the same job may end better when started again."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, Cancelled):
        return first, True
    if isinstance(error, RatchetError):
        return first, False
    # safetensors and torch wrap the system's error in their own types and keep its words
    if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
        return "the disk is full; free some space and run `ratchet round` again", True
    return f"training crashed: {type(error).__name__}: {first}; training.log has the whole story", False


def _leave(run_dir: Path, reason: str, resumable: bool) -> None:
    """Write failure.json; of several processes the first to fail knows the cause."""
    try:
        with (run_dir / "failure.json").open("x") as file:
            json.dump({"reason": reason, "resumable": resumable}, file)
    except FileExistsError:
        return
    except OSError as error:
        print(f"failure.json could not be written: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
