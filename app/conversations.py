"""What the server knows of its conversations: the only transcript that anything is stored from.

A browser sends a question, or names an answer it was given and says something about it. Whatever it claims
about texts, places or history is compared with what is kept here, and refused where it differs.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from app.web.display import safe_markdown
from eval.objective import Objective, RedFlag, Sampling
from feedback.errors import RatchetError, Refused
from feedback.records import Kind, Message, Signal, Turn, new_id
from feedback.store import Store
from feedback.text import acceptable

MAX_CONVERSATIONS = 2000
MAX_TURNS = 200  # of one conversation
FORGET_AFTER = timedelta(hours=12)  # idle
RULES = "rules"  # the version that answers a red flag
ALTERNATIVE_TEMPERATURE = 0.7  # a greedy second answer would be the first again

Choice = Literal[0, 1, "tie"]


class Stream(Protocol):
    """An answer on its way: iterate for its pieces, close to cancel; see app.engine.Stream."""

    finish: str | None
    completion_tokens: int

    @property
    def prompt_tokens(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def close(self) -> None: ...


class Engine(Protocol):
    """Whatever answers: in this process, or a server elsewhere."""

    @property
    def versions(self) -> frozenset[str]: ...
    def stream(self, messages: Sequence[Message], version: str, sampling: Sampling) -> Stream: ...
    def unload(self, version: str) -> None: ...


@dataclass(frozen=True)
class Exchange:
    """One answer and what belongs to it."""

    turn: Turn
    kept: bool  # stored, with the person's consent; only then can anything be said about it
    alternative: str | None = None  # a second answer to the same question, when the person asked for one

    @property
    def question(self) -> str:
        return self.turn.messages[-1]["content"]


@dataclass(frozen=True)
class Progress:
    """How far an answer is; the last of a series has its `exchange`, or none if nothing came of it."""

    text: str
    version: str
    moved: bool = False  # another version than before answers in this conversation
    done: bool = False
    exchange: Exchange | None = None


@dataclass
class Conversation:
    """One person's chat. `lock` guards its lists; `answering` is held while an answer is written."""

    id: str
    person: str
    active: datetime  # UTC
    version: str | None = None  # whoever answered last; None before the first answer
    exchanges: list[Exchange] = field(default_factory=list)
    stream: Stream | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    answering: threading.Lock = field(default_factory=threading.Lock)

    def messages(self) -> list[Message]:
        """The transcript, without system prompt."""
        return [
            message
            for exchange in self.exchanges
            for message in (
                {"role": "user", "content": exchange.question},
                {"role": "assistant", "content": exchange.turn.answer},
            )
        ]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Conversations:
    """Every chat of this process, what was said in it, and which version serves new ones; thread-safe."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        objective: Objective,
        champion: str,
        now: Callable[[], datetime] = utc_now,
    ):
        self._store = store
        self._engine = engine
        self._objective = objective
        self._champion = champion
        self._now = now
        self._retired: set[str] = set()  # champions of before: unloaded when nobody is on them any more
        self._withdrawn: set[str] = set()
        self._open: dict[str, Conversation] = {}
        self._lock = threading.Lock()  # of the four above

    # which version serves

    @property
    def champion(self) -> str:
        """The version that answers in new conversations."""
        return self._champion

    def promote(self, version: str) -> None:
        """New conversations go to `version`, which must be loaded; those under way stay where they are."""
        with self._lock:
            if version not in self._engine.versions:
                raise RatchetError(f"version {version} is not loaded; load it before it is promoted")
            self._retired = (self._retired | {self._champion}) - {version}
            self._withdrawn.discard(version)
            self._champion = version

    def withdraw(self, version: str) -> None:
        """`version` answers nothing more; its conversations go on with the champion."""
        with self._lock:
            if version == self._champion:
                raise RatchetError(f"version {version} serves; promote another one before it is withdrawn")
            self._withdrawn.add(version)

    def sweep(self) -> None:
        """Forget what has long been idle, and unload former champions that nobody is on any more."""
        with self._lock:
            self._forget()
            used = {c.version for c in self._open.values() if c.answering.locked() or self._pinned(c)}
            for version in (self._retired & self._engine.versions) - used - {"base"}:
                self._engine.unload(version)

    def _pinned(self, conversation: Conversation) -> bool:
        idle = self._now() - conversation.active
        served = conversation.version in self._engine.versions - self._withdrawn
        return served and idle < timedelta(minutes=self._objective.pin_minutes)

    # asking

    def open(self, person: str) -> str:
        """The id of a new, empty conversation of `person`."""
        at = self._now()
        conversation = Conversation(new_id(at), person, at)
        with self._lock:
            self._forget()
            self._open[conversation.id] = conversation
        return conversation.id

    def exchanges(self, conversation: str, person: str) -> list[Exchange]:
        """What was asked and answered so far, oldest first."""
        own = self._own(conversation, person)
        with own.lock:
            return list(own.exchanges)

    def ask(self, conversation: str, person: str, question: str, consent: bool) -> Iterator[Progress]:
        """Answer `question`, piece by piece; the last Progress has the finished exchange.

        It is stored only with `consent`, and only if all that it builds on was. Closing the iterator stores
        what was answered so far as cancelled. Refused while another answer is being written.
        """
        own = self._own(conversation, person)
        acceptable(question, "question")
        with self._answering(own):
            if len(own.exchanges) >= MAX_TURNS:
                raise Refused(f"this chat has {MAX_TURNS} answers; start a new one")
            kept = bool(consent) and all(exchange.kept for exchange in own.exchanges)
            messages = (*own.messages(), {"role": "user", "content": question})
            if flag := self._objective.first_red_flag(question):
                yield self._warn(own, messages, flag, kept)
            else:
                yield from self._answer(own, messages, kept)

    def stop(self, conversation: str, person: str) -> None:
        """End the answer that is being written, if there is one; what there is of it is kept."""
        stream = self._own(conversation, person).stream
        if stream is not None:
            stream.close()

    def _warn(self, own: Conversation, messages: tuple[Message, ...], flag: RedFlag, kept: bool) -> Progress:
        """A red flag: the rule's own words, and no model is asked."""
        at = self._now()
        turn = Turn(
            id=new_id(at),
            conversation=own.id,
            user=own.person,
            messages=messages,
            answer=flag.message,
            version=RULES,
            at=at,
            latency_s=0.0,
            finish="red_flag",
            red_flag=flag.name,
        )
        return Progress(flag.message, RULES, done=True, exchange=self._keep(own, turn, kept))

    def _answer(self, own: Conversation, messages: tuple[Message, ...], kept: bool) -> Iterator[Progress]:
        at, started = self._now(), time.monotonic()
        version = own.version if self._pinned(own) else self.champion
        moved = own.version not in (None, version)
        own.version = version
        sampling = self._objective.sampling
        text = ""
        stream = self._start(own, messages, version, sampling)
        try:
            yield Progress(text, version, moved)
            for piece in stream:
                text += piece
                yield Progress(text, version, moved)
        finally:
            stream.close()  # no effect on an answer that is complete
            own.stream = None
            turn = Turn(
                id=new_id(at),
                conversation=own.id,
                user=own.person,
                messages=messages,
                answer=text,
                version=version,
                at=at,
                system_prompt=self._objective.system_prompt,
                sampling=sampling.model_dump(),
                latency_s=round(time.monotonic() - started, 3),
                prompt_tokens=stream.prompt_tokens,
                completion_tokens=stream.completion_tokens,
                finish=stream.finish,
            )
            exchange = self._keep(own, turn, kept) if text.strip() else None
        yield Progress(text, version, moved, done=True, exchange=exchange)

    def _start(
        self, own: Conversation, messages: Sequence[Message], version: str, sampling: Sampling
    ) -> Stream:
        system = {"role": "system", "content": self._objective.system_prompt}
        own.stream = self._engine.stream([system, *messages], version, sampling)
        return own.stream

    def _keep(self, own: Conversation, turn: Turn, kept: bool) -> Exchange:
        """Add an answer to the transcript, and to the store if it may be kept."""
        exchange = Exchange(turn, kept)
        if kept:
            self._store.add_turn(turn)
        with own.lock:
            own.active = self._now()
            own.exchanges.append(exchange)
        return exchange

    # what is said about an answer

    def said(self, conversation: str, person: str, turn: str) -> dict[Kind, dict[str, Any]]:
        """What the person says of an answer now: {kind: value}."""
        self._given(conversation, person, turn)
        return {kind: signal.value for kind, signal in self._store.current_signals(turn, person).items()}

    def turn_at(self, conversation: str, person: str, index: int, text: str) -> str:
        """The id of the answer that the page shows as message `index` with `text`; Refused if it does not."""
        exchanges = self.exchanges(conversation, person)
        if type(index) is not int or index % 2 != 1 or not 0 < index < 2 * len(exchanges):
            raise Refused(f"this chat has no answer at {index}; load the page again")
        turn = exchanges[index // 2].turn
        if text != safe_markdown(turn.answer):
            raise Refused("the answer on the page is not the one that was given; load the page again")
        return turn.id

    def rate(
        self, conversation: str, person: str, turn: str, rating: int, reasons: Iterable[str] = ()
    ) -> None:
        """A thumb up (1) or down (-1) with any of the objective's reasons for it, or 0 to take it back."""
        page = self._objective.page
        offered = {1: page.reasons_up, -1: page.reasons_down, 0: ()}
        reasons = list(reasons)
        if type(rating) is not int or rating not in offered or set(reasons) - set(offered[rating]):
            raise Refused(f"a rating of {rating!r} with the reasons {reasons} is not on offer")
        value = {"rating": rating, "reasons": [reason for reason in offered[rating] if reason in reasons]}
        self._say(conversation, person, turn, "rating", value, unsaid={"rating": 0, "reasons": []})

    def comment(self, conversation: str, person: str, turn: str, text: str) -> None:
        """A remark in the person's own words."""
        self._say(conversation, person, turn, "comment", {"text": acceptable(text, "comment")})

    def correct(self, conversation: str, person: str, turn: str, text: str) -> None:
        """A better answer, by the person."""
        first = self._answered_by_model(conversation, person, turn)
        if acceptable(text, "better answer").strip() == first.turn.answer.strip():
            raise Refused("the better answer is the same as the one given; change it first")
        self._say(conversation, person, turn, "correction", {"text": text})

    def alternative(self, conversation: str, person: str, turn: str) -> Iterator[Progress]:
        """A second answer to the same question by the same version, piece by piece; only one is written."""
        own = self._own(conversation, person)
        first = self._answered_by_model(conversation, person, turn)
        if first.alternative is not None:
            yield Progress(first.alternative, first.turn.version, done=True, exchange=first)
            return
        if first.turn.version in self._withdrawn or first.turn.version not in self._engine.versions:
            raise Refused(f"version {first.turn.version} no longer serves; ask the question anew")
        sampling = self._objective.sampling
        if sampling.temperature == 0:
            sampling = sampling.model_copy(update={"temperature": ALTERNATIVE_TEMPERATURE})
        text = ""
        with self._answering(own):
            stream = self._start(own, first.turn.messages, first.turn.version, sampling)
            try:
                for piece in stream:
                    text += piece
                    yield Progress(text, first.turn.version)
            finally:
                stream.close()
                own.stream = None
            whole = stream.finish in ("stop", "length") and text.strip() != first.turn.answer.strip()
            second = self._with_alternative(own, turn, text) if whole and text.strip() else None
        yield Progress(text, first.turn.version, done=True, exchange=second)

    def choose(self, conversation: str, person: str, turn: str, choice: Choice) -> None:
        """Which of the two answers is better: 0 the first given, 1 the alternative, or "tie"."""
        second = self._given(conversation, person, turn).alternative
        if second is None:
            raise Refused("there is no second answer to choose from; ask for one first")
        if choice != "tie" and (type(choice) is not int or choice not in (0, 1)):
            raise Refused(f'a choice is 0, 1 or "tie", not {choice!r}')
        self._say(conversation, person, turn, "choice", {"alternatives": [second], "choice": choice})

    def _say(
        self,
        conversation: str,
        person: str,
        turn: str,
        kind: Kind,
        value: dict[str, Any],
        unsaid: dict[str, Any] | None = None,
    ) -> None:
        """Store a signal, unless the person says just that already (`unsaid` is what nothing said means)."""
        own = self._own(conversation, person)
        self._given(conversation, person, turn)
        with own.lock:
            before = self._store.current_signals(turn, person).get(kind)
            if value == (before.value if before else unsaid):
                return
            at = self._now()
            self._store.add_signal(Signal(new_id(at), turn, person, "user", kind, value, at))
            own.active = at

    # what belongs to whom

    def _own(self, conversation: str, person: str) -> Conversation:
        with self._lock:
            found = self._open.get(conversation)
        if found is None or found.person != person:
            raise Refused("this chat has ended or is not yours; start a new one")
        return found

    def _given(self, conversation: str, person: str, turn: str) -> Exchange:
        """The exchange `turn` of the person's conversation, if anything may be said about it."""
        found = next((e for e in self.exchanges(conversation, person) if e.turn.id == turn), None)
        if found is None:
            raise Refused("this answer was not given in this chat; load the page again")
        if not found.kept:
            raise Refused("this answer is not kept, so nothing can be said of it; agree first, then ask anew")
        return found

    def _answered_by_model(self, conversation: str, person: str, turn: str) -> Exchange:
        found = self._given(conversation, person, turn)
        if found.turn.red_flag is not None:
            raise Refused("a fixed safety notice answered, not the model; send a comment instead")
        return found

    def _with_alternative(self, own: Conversation, turn: str, text: str) -> Exchange:
        with own.lock:
            place = next(i for i, exchange in enumerate(own.exchanges) if exchange.turn.id == turn)
            own.exchanges[place] = replace(own.exchanges[place], alternative=text)
            own.active = self._now()
            return own.exchanges[place]

    @contextmanager
    def _answering(self, own: Conversation) -> Iterator[None]:
        if not own.answering.acquire(blocking=False):
            raise Refused("an answer is still being written; stop it first")
        try:
            yield
        finally:
            own.answering.release()

    def _forget(self) -> None:
        """Drop conversations that are idle for hours, and the longest idle where there are too many."""
        oldest_first = sorted(self._open.values(), key=lambda c: c.active)
        surplus = len(oldest_first) - MAX_CONVERSATIONS + 1  # room for one more
        for place, conversation in enumerate(oldest_first):
            idle = self._now() - conversation.active
            if (idle > FORGET_AFTER or place < surplus) and not conversation.answering.locked():
                del self._open[conversation.id]
