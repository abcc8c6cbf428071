"""How a training job is asked to stop."""

from dataclasses import dataclass

from feedback.errors import RatchetError


class Cancelled(Exception):
    """Somebody asked the job to stop; `step` is where it goes on from."""

    def __init__(self, step: int | None = None) -> None:
        place = "where it was" if step is None else f"step {step}"
        super().__init__(f"cancelled; `ratchet round` goes on from {place}")


class Obstacle(RatchetError):
    """Something beside the run is in its way; once it is mended the same run goes on."""


@dataclass
class Interruption:
    """Whether a signal asked to stop, and whether a training loop is there to leave a checkpoint first."""

    asked: bool = False
    training: bool = False

    def ask(self, *_: object) -> None:
        """The signal handler: stop after this step, or at once where no step runs."""
        self.asked = True
        if not self.training:
            raise Cancelled
