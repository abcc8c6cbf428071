"""Things said about answers, in a line each, and what they compile to."""

from datetime import UTC, datetime

from feedback.compiling.compiler import Compilation, Events, compile_events
from feedback.compiling.curation import Curation
from feedback.records import Knowledge, Review, Signal, Turn

AT = datetime(2026, 1, 1, tzinfo=UTC)
SYSTEM = "You give plain, careful health information."
QUESTION = "What is asthma and who gets it?"
ANSWER = "Asthma is a disease of the stomach that comes from cold water."
BETTER = "Asthma is a disease of the airways that makes breathing hard."
OTHER = "Asthma narrows the airways, and an inhaler opens them again quickly."
EXPERT = (
    "Asthma is a disease of the airways: they swell and narrow, which makes breathing hard; an inhaler that is "
    "used early opens them again."
)
MANY = [
    "What causes headaches in the morning?",
    "How long does a common cold last?",
    "Which foods contain a lot of iron?",
    "Is it safe to fly with an ear infection?",
]
ALL_TRAIN = Curation(
    validation_share=0, held_out_share=0, min_words=3, max_words=30, boilerplate=("^See the links",)
)


def turn(turn_id: str = "t1", question: str = QUESTION, answer: str = ANSWER, **more) -> Turn:
    """An answer to one question in a conversation of its own."""
    asked = ({"role": "user", "content": question},)
    defaults = {"conversation": "c" + turn_id, "user": "ann", "messages": asked, "version": "v0001", "at": AT}
    return Turn(**{"id": turn_id, "answer": answer, **defaults, **more})


def rating(signal_id: str, value: int, user: str = "ann", turn: str = "t1", role: str = "user") -> Signal:
    """A thumb."""
    return Signal(
        signal_id,
        turn,
        user,
        role,
        "rating",
        {"rating": value, "reasons": []},
        AT,
    )


def correction(
    signal_id: str, text: str, user: str = "ann", turn: str = "t1", role: str = "reviewer"
) -> Signal:
    """A better answer; a reviewer's unless told."""
    return Signal(signal_id, turn, user, role, "correction", {"text": text}, AT)


def choice(
    signal_id: str, alternatives: list[str], chosen: int | str, user: str = "ann", turn: str = "t1"
) -> Signal:
    """A choice between the given answer (0) and others (1, ...), or a tie."""
    value = {"alternatives": alternatives, "choice": chosen}
    return Signal(signal_id, turn, user, "user", "choice", value, AT)


def knowledge(
    row_id: str, question: str = QUESTION, answer: str = BETTER, topic: str | None = None
) -> Knowledge:
    """A question and its answer from outside."""
    return Knowledge(row_id, question, answer, AT, topic)


def compiled(
    *events: Turn | Signal | Review | Knowledge, curation: Curation = ALL_TRAIN, **more
) -> Compilation:
    """What `events` compile to, where everything is for training unless told otherwise."""
    kinds = {"turns": Turn, "signals": Signal, "reviews": Review, "knowledge": Knowledge}
    sorted_out = {n: tuple(e for e in events if isinstance(e, kind)) for n, kind in kinds.items()}
    return compile_events(Events(**sorted_out), curation, SYSTEM, **more)


def dropped(result: Compilation) -> dict[str, int]:
    """The signals that each rule dropped."""
    return result.document()["signals"]["dropped"]


def supervised(result: Compilation) -> list[str | None]:
    """The answers that a model would learn to give."""
    return [row.chosen for row in result.rows if row.kind == "sft"]


def adds_up(result: Compilation) -> bool:
    """in = kept + held_out + all dropped, in both funnels."""
    funnels = [result.document()[name] for name in ("signals", "knowledge")]
    return all(f["in"] == f["kept"] + f["held_out"] + sum(f["dropped"].values()) for f in funnels)


def recorded(side: str, *topics: str) -> dict[str, tuple[str, str]]:
    """Topics whose side was recorded before."""
    return {f"topic:{t}": (f"topic:{t}", side) for t in topics}
