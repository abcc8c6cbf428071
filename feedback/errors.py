"""The errors that a person may meet, each one line that says what and how to mend it.

RatchetError          a job that could not be done: exit 1
├── UsageError        wrong use: exit 2
├── StoreBusy         another process has the store open
├── StoreBehind       the store has lost its tail
└── Refused           an event that this session may not send: stored nowhere
    └── Lost          what it was about is gone by now, or somebody else's
"""


class RatchetError(Exception):
    """A job that could not be done; its text is shown to a person as it is."""


class UsageError(RatchetError):
    """The command or the objective is written wrongly."""


class StoreBusy(RatchetError):
    """Another process has the store open; only one may."""


class StoreBehind(RatchetError):
    """The store holds fewer events than its high-water mark says were acknowledged."""


class Refused(RatchetError):
    """A forged, stale or unacceptable event; nothing of it was stored."""


class Lost(Refused):
    """What the event was about is gone by now, or somebody else's; there is something else to go on with."""
