"""What the server knows of its conversations: the only transcript that anything is stored from.

A browser sends a question, or names an answer it was given and says something about it. Whatever it claims
about texts, places or history is compared with what is kept here, and refused where it differs.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from app.transcript import Conversation, Exchange, Progress, Stream, messages_of, standing
from app.web.display import safe_markdown
from eval.objective import Objective, RedFlag, Sampling
from feedback.errors import RatchetError, Refused
from feedback.history import Heading, everything_of, forget, headings_of, ratings_in
from feedback.records import Kind, Message, Signal, Title, Turn, new_id
from feedback.store import Store
from feedback.text import acceptable

MAX_CONVERSATIONS = 2000
MAX_TURNS = 200  # of one conversation
MAX_TITLE = 80  # characters
FORGET_AFTER = timedelta(hours=12)  # idle
RULES = "rules"  # the version that answers a red flag
ALTERNATIVE_TEMPERATURE = 0.7  # a greedy second answer would be the first again

Choice = Literal[0, 1, "tie"]


class Engine(Protocol):
    """Whatever answers: in this process, or a server elsewhere."""

    @property
    def versions(self) -> frozenset[str]: ...
    def stream(self, messages: Sequence[Message], version: str, sampling: Sampling) -> Stream: ...
    def unload(self, version: str) -> None: ...


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
        limit: Callable[[str, str], None] = lambda kind, person: None,
    ):
        """`limit` raises Refused when a person asks ("question") or says ("rating") too much at once."""
        self._store = store
        self._engine = engine
        self._objective = objective
        self._champion = champion
        self._now = now
        self._limit = limit
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

    def ask(
        self, conversation: str, person: str, question: str, consent: bool, instead_of: str | None = None
    ) -> Iterator[Progress]:
        """Answer `question`, piece by piece; the last Progress has the finished exchange.

        With `instead_of` (a turn of this conversation) it takes the place of that turn's question, and what
        followed it is left behind. It is stored only with `consent`, and only if all that it builds on was.
        Closing the iterator stores what was answered so far as cancelled. Refused while another answer is
        being written.
        """
        own = self._own(conversation, person)
        acceptable(question, "question")
        self._limit("question", person)
        with self._answering(own):
            before = self._before(own, instead_of)
            if len(before) >= MAX_TURNS:
                raise Refused(f"this chat has {MAX_TURNS} answers; start a new one")
            kept = bool(consent) and all(exchange.kept for exchange in before)
            messages = (*messages_of(before), {"role": "user", "content": question})
            if flag := self._objective.first_red_flag(question):
                yield self._warn(own, before, messages, flag, kept)
            else:
                yield from self._answer(own, before, messages, kept)

    def stop(self, conversation: str, person: str) -> None:
        """End the answer that is being written, if there is one; what there is of it is kept."""
        stream = self._own(conversation, person).stream
        if stream is not None:
            stream.close()

    def _before(self, own: Conversation, turn: str | None) -> list[Exchange]:
        """The exchanges that a question builds on which is asked instead of `turn`'s, or after all of them."""
        with own.lock:
            ids = [exchange.turn.id for exchange in own.exchanges]
            if turn is not None and turn not in ids:
                raise Refused("this question was not asked in this chat; load the page again")
            return own.exchanges[: len(ids) if turn is None else ids.index(turn)]

    def _warn(
        self,
        own: Conversation,
        before: list[Exchange],
        messages: tuple[Message, ...],
        flag: RedFlag,
        kept: bool,
    ) -> Progress:
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
        return Progress(flag.message, RULES, done=True, exchange=self._keep(own, before, turn, kept))

    def _answer(
        self, own: Conversation, before: list[Exchange], messages: tuple[Message, ...], kept: bool
    ) -> Iterator[Progress]:
        version = own.version if self._pinned(own) else self.champion
        moved = own.version not in (None, version)
        writing = self._begin(own, messages, version, self._objective.sampling)
        own.version = version
        try:
            yield Progress("", version, moved)
            for text in writing:
                yield Progress(text, version, moved)
        finally:
            own.stream = None
            turn = writing.end()
            exchange = self._keep(own, before, turn, kept) if turn.answer.strip() else None
        yield Progress(turn.answer, version, moved, done=True, exchange=exchange)

    def _begin(
        self, own: Conversation, messages: tuple[Message, ...], version: str, sampling: Sampling
    ) -> "_Writing":
        at = self._now()
        system = self._objective.system_prompt
        own.stream = self._engine.stream(
            [{"role": "system", "content": system}, *messages], version, sampling
        )
        return _Writing(
            own.stream,
            Turn(
                id=new_id(at),
                conversation=own.id,
                user=own.person,
                messages=messages,
                answer="",
                version=version,
                at=at,
                system_prompt=system,
                sampling=sampling.model_dump(),
            ),
        )

    def _keep(self, own: Conversation, before: list[Exchange], turn: Turn, kept: bool) -> Exchange:
        """Put an answer after those before it, and into the store if it may be kept."""
        exchange = Exchange(turn, kept)
        with own.lock:
            if own.erased:
                return Exchange(turn, kept=False)
            if kept:
                self._store.add_turn(turn)
            own.active = self._now()
            own.exchanges = [*before, exchange]
        return exchange

    # a person's own conversations

    def headings(self, person: str) -> list[Heading]:
        """The conversations of `person`, the last used first; those that are not kept, too."""
        kept = headings_of(self._store, person)
        with self._lock:
            others = [c for c in self._open.values() if c.person == person and c.exchanges]
        passing = [
            Heading(c.id, c.exchanges[0].question, c.active, kept=False)
            for c in others
            if not any(exchange.kept for exchange in c.exchanges)
        ]
        return sorted([*kept, *passing], key=lambda heading: heading.active, reverse=True)

    def rename(self, conversation: str, person: str, title: str) -> None:
        """Give a kept conversation a name of the person's own."""
        own = self._own(conversation, person)
        line = " ".join(acceptable(title, "name").split())
        if len(line) > MAX_TITLE:
            raise Refused(f"a name has at most {MAX_TITLE} characters; this one has {len(line)}")
        with own.lock:
            if not any(exchange.kept for exchange in own.exchanges):
                raise Refused("this chat is not kept, so it cannot have a name")
            at = self._now()
            self._store.add(Title(new_id(at), own.id, person, line, at))

    def delete(self, conversation: str, person: str) -> None:
        """Take a conversation away, with all that was said about it; Refused while an answer is written."""
        own = self._own(conversation, person)
        with self._answering(own), own.lock:
            forget(self._store, person, [own.id], self._now())
            own.exchanges = []
            with self._lock:
                self._open.pop(own.id, None)

    def delete_all(self, person: str) -> None:
        """Take away every conversation of `person`; Refused while an answer is written in one of them."""
        for heading in self.headings(person):
            self.delete(heading.conversation, person)

    def forget_person(self, person: str) -> None:
        """Drop every conversation of `person`; an answer that is being written ends, and is not stored."""
        with self._lock:
            theirs = [c for c in self._open.values() if c.person == person]
            for own in theirs:
                del self._open[own.id]
        for own in theirs:
            with own.lock:
                own.erased, own.exchanges = True, []
            if (stream := own.stream) is not None:
                stream.close()

    def everything(self, person: str) -> list[dict[str, Any]]:
        """All that is kept of the person's conversations, as plain JSON."""
        return everything_of(self._store, person)

    # what is said about an answer

    def said(self, conversation: str, person: str, turn: str) -> dict[Kind, dict[str, Any]]:
        """What the person says of an answer now: {kind: value}."""
        self._given(conversation, person, turn)
        return {kind: signal.value for kind, signal in self._store.current_signals(turn, person).items()}

    def ratings(self, conversation: str, person: str) -> dict[str, int]:
        """The person's thumbs in a conversation: {turn id: 1, -1 or 0}."""
        self._own(conversation, person)
        return ratings_in(self._store, conversation, person)

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
        """A remark in the person's own words; an empty one takes it back."""
        text = acceptable(text, "comment") if text.strip() else ""
        self._say(conversation, person, turn, "comment", {"text": text}, unsaid={"text": ""})

    def correct(self, conversation: str, person: str, turn: str, text: str) -> None:
        """A better answer, by the person."""
        first = self._answered_by_model(conversation, person, turn)
        if acceptable(text, "better answer").strip() == first.turn.answer.strip():
            raise Refused("the better answer is the same as the one given; change it first")
        self._say(conversation, person, turn, "correction", {"text": text})

    def take_correction_back(self, conversation: str, person: str, turn: str) -> None:
        """The person's better answer is no longer theirs."""
        self._say(conversation, person, turn, "correction", {"text": ""}, unsaid={"text": ""})

    def alternative(self, conversation: str, person: str, turn: str) -> Iterator[Progress]:
        """A second answer to the same question by the same version, piece by piece; one waits at a time."""
        own = self._own(conversation, person)
        first = self._answered_by_model(conversation, person, turn)
        if first.alternative is not None:
            yield Progress(first.alternative.answer, first.turn.version, done=True, exchange=first)
            return
        if first.turn.version in self._withdrawn or first.turn.version not in self._engine.versions:
            raise Refused(f"version {first.turn.version} no longer serves; ask the question anew")
        self._limit("question", person)
        sampling = self._objective.sampling
        if sampling.temperature == 0:
            sampling = sampling.model_copy(update={"temperature": ALTERNATIVE_TEMPERATURE})
        with self._answering(own):
            writing = self._begin(own, first.turn.messages, first.turn.version, sampling)
            try:
                for text in writing:
                    yield Progress(text, first.turn.version)
            finally:
                own.stream = None
                second = replace(writing.end(), metadata={"alternative_to": turn})
            new = second.answer.strip() not in ("", first.turn.answer.strip())
            found = (
                self._replace(own, turn, alternative=second)
                if new and second.finish in ("stop", "length")
                else None
            )
        yield Progress(second.answer, first.turn.version, done=True, exchange=found)

    def choose(
        self, conversation: str, person: str, turn: str, choice: Choice, both: str | None = None
    ) -> Exchange:
        """Which of the two answers is better: 0 the first given, 1 the alternative, or "tie".

        Of a tie `both` may say "good" or "bad". The last answer gives way to a better one; returned is
        the exchange that stands.
        """
        own = self._own(conversation, person)
        first = self._given(conversation, person, turn)
        second = first.alternative
        if second is None:
            raise Refused("there is no second answer to choose from; ask for one first")
        if choice != "tie" and (type(choice) is not int or choice not in (0, 1)):
            raise Refused(f'a choice is 0, 1 or "tie", not {choice!r}')
        if both is not None and (choice != "tie" or both not in ("good", "bad")):
            raise Refused(f'of a tie both are "good" or "bad", not {both!r}')
        value = {"alternatives": [second.answer], "choice": choice} | ({"both": both} if both else {})
        self._say(conversation, person, turn, "choice", value)
        last = self.exchanges(conversation, person)[-1].turn.id == turn
        if choice != 1 or not last:  # what was answered since builds on the first one
            return self._replace(own, turn, alternative=None)
        at = self._now()
        chosen = replace(second, id=new_id(at), at=at)
        self._store.add_turn(chosen)
        return self._replace(own, turn, turn=chosen, alternative=None)

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
        self._limit("rating", person)
        with own.lock:
            self._given(conversation, person, turn)
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
        found = found or self._restore(conversation, person)
        if found is None or found.person != person:
            raise Refused("this chat has ended or is not yours; start a new one")
        return found

    def _restore(self, conversation: str, person: str) -> Conversation | None:
        """A kept conversation, as it was before the server was started anew or it lay idle."""
        turns = [t for t in self._store.turns_of(conversation) if (t.user, t.source) == (person, "chat")]
        if not turns:
            return None
        answered = [turn.version for turn in turns if turn.version != RULES]
        restored = Conversation(
            conversation,
            person,
            turns[-1].at,
            answered[-1] if answered else None,
            [Exchange(turn, kept=True) for turn in standing(turns)],
        )
        with self._lock:
            return self._open.setdefault(conversation, restored)

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

    def _replace(self, own: Conversation, turn: str, /, **changes: Any) -> Exchange:
        """The exchange of `turn` with `changes`, in its place."""
        with own.lock:
            place = next(i for i, exchange in enumerate(own.exchanges) if exchange.turn.id == turn)
            own.exchanges[place] = replace(own.exchanges[place], **changes)
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


class _Writing:
    """An answer that is being written: iterate for the text so far, then `end` it."""

    def __init__(self, stream: Stream, draft: Turn):
        self._stream, self._draft, self._text, self._began = stream, draft, "", time.monotonic()

    def __iter__(self) -> Iterator[str]:
        for piece in self._stream:
            self._text += piece
            yield self._text

    def end(self) -> Turn:
        """Stop it where it is not complete; the answer as far as it came."""
        self._stream.close()
        return replace(
            self._draft,
            answer=self._text,
            latency_s=round(time.monotonic() - self._began, 3),
            prompt_tokens=self._stream.prompt_tokens,
            completion_tokens=self._stream.completion_tokens,
            finish=self._stream.finish,
        )
