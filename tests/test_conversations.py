"""What the server lets a person do: only with answers they were given, only from its own transcript."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.conversations import Conversations, Progress
from app.web.display import safe_markdown
from eval.objective import Gate, Objective, Page, RedFlag, Sampling, SuitePlan
from feedback.erasure import person_digest
from feedback.errors import RatchetError, Refused
from feedback.records import Draft, Judgement, Review
from feedback.store import Store

ANNA, BEN = "anna", "ben"


class ScriptedStream:
    """Gives the pieces one by one; after closing, no more."""

    def __init__(self, pieces: list[str]):
        self.finish: str | None = None
        self.prompt_tokens = 7
        self.completion_tokens = 0
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            if self.finish:
                return
            self.completion_tokens += 1
            yield piece
        self.finish = self.finish or "stop"

    def close(self) -> None:
        self.finish = self.finish or "cancelled"


class ScriptedEngine:
    """Answers with the version's name and how often it was asked; remembers what it was asked."""

    def __init__(self, *versions: str):
        self.versions = frozenset(versions)
        self.asked: list[tuple[list[dict[str, str]], str, Sampling]] = []

    def stream(self, messages, version, sampling) -> ScriptedStream:
        if version not in self.versions:
            raise RatchetError(f"version {version} is not loaded")
        self.asked.append((list(messages), version, sampling))
        return ScriptedStream([f"answer {len(self.asked)} ", "by ", version])

    def unload(self, version: str) -> None:
        self.versions -= {version}


class Clock:
    """A time that passes when it is told to."""

    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=5)  # so that ids keep their order
        return self.now

    def wait(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.duckdb") as store:
        yield store


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine("base", "v1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def chats(store: Store, engine: ScriptedEngine, clock: Clock) -> Conversations:
    objective = Objective(
        folder=Path("nowhere"),
        title="Leaflet",
        system_prompt="Answer plainly.",
        base_model="tiny",
        encoder="tiny",
        page=Page(
            consent="Keep it?", disclaimer="No advice.", reasons_up=("clear",), reasons_down=("wrong", "long")
        ),
        pin_minutes=30,
        sampling=Sampling(max_new_tokens=16, temperature=0),
        suites={"questions": SuitePlan(kind="questions", items=1, metrics=("similarity",))},
        gate=Gate(primary="similarity"),
        red_flag=(RedFlag(name="heart", patterns=("chest pain",), message="Call **112** now."),),
    )
    return Conversations(store, engine, objective, "base", clock)


def ask(
    chats: Conversations, chat: str, question: str = "Water?", person: str = ANNA, consent=True
) -> Progress:
    return list(chats.ask(chat, person, question, consent))[-1]


def asked(chats: Conversations, person: str = ANNA, **more) -> tuple[str, str]:
    """A new chat of Anna with one answer: the ids of both."""
    chat = chats.open(person)
    return chat, ask(chats, chat, person=person, **more).exchange.turn.id


def test_an_answer_is_stored_with_all_that_made_it(chats: Conversations, store: Store):
    """A turn records version, system prompt, sampling, latency and token counts."""
    chat = chats.open(ANNA)
    states = list(chats.ask(chat, ANNA, "Water?", True))
    texts = ["", "answer 1 ", "answer 1 by ", "answer 1 by base", "answer 1 by base"]
    assert [state.text for state in states] == texts
    turn = store.turn(states[-1].exchange.turn.id)
    assert turn == states[-1].exchange.turn
    assert (turn.user, turn.conversation, turn.version, turn.finish) == (ANNA, chat, "base", "stop")
    assert turn.messages == ({"role": "user", "content": "Water?"},)
    assert (turn.answer, turn.system_prompt) == ("answer 1 by base", "Answer plainly.")
    assert turn.sampling["max_new_tokens"] == 16
    assert (turn.prompt_tokens, turn.completion_tokens) == (7, 3)
    assert turn.latency_s >= 0


def test_the_model_is_asked_with_the_servers_transcript(chats: Conversations, engine: ScriptedEngine):
    """System prompt first, then what was said before, then the question."""
    chat, _ = asked(chats)
    ask(chats, chat, "And tea?")
    assert engine.asked[-1][0] == [
        {"role": "system", "content": "Answer plainly."},
        {"role": "user", "content": "Water?"},
        {"role": "assistant", "content": "answer 1 by base"},
        {"role": "user", "content": "And tea?"},
    ]


def test_without_consent_nothing_is_stored(chats: Conversations, store: Store):
    """The chat works, but leaves no row, and nothing can be said about its answers."""
    chat, turn = asked(chats, consent=False)
    for say in (
        lambda: chats.rate(chat, ANNA, turn, 1),
        lambda: chats.comment(chat, ANNA, turn, "good"),
        lambda: chats.correct(chat, ANNA, turn, "better"),
        lambda: list(chats.alternative(chat, ANNA, turn)),
        lambda: chats.choose(chat, ANNA, turn, 0),
    ):
        with pytest.raises(Refused, match="not kept"):
            say()
    assert not any(store.counts().values())


def test_consent_does_not_reach_back(chats: Conversations, store: Store):
    """An answer that builds on words said without consent is not stored either."""
    chat, _ = asked(chats, consent=False)
    assert not ask(chats, chat, "And tea?", consent=True).exchange.kept
    assert store.counts()["turn"] == 0


def test_forged_events_are_refused_and_stored_nowhere(chats: Conversations, store: Store):
    """Only an answer given to this person in this chat can be spoken of, and only as it was given."""
    chat, turn = asked(chats)
    other_chat, other_turn = asked(chats)
    rows = store.counts()
    for person, where, what in (
        (BEN, chat, turn),
        (ANNA, other_chat, turn),
        (ANNA, chat, other_turn),
        (ANNA, chat, "0" * 22),
        (ANNA, "0" * 22, turn),
        (ANNA, chat, None),
        (None, chat, turn),
    ):
        for say in (
            lambda p, c, t: chats.rate(c, p, t, 1),
            lambda p, c, t: chats.comment(c, p, t, "good"),
            lambda p, c, t: chats.correct(c, p, t, "better"),
            lambda p, c, t: list(chats.alternative(c, p, t)),
            lambda p, c, t: chats.choose(c, p, t, 0),
            lambda p, c, t: chats.said(c, p, t),
        ):
            with pytest.raises(Refused):
                say(person, where, what)
    with pytest.raises(Refused):
        list(chats.ask(chat, BEN, "Water?", True))
    with pytest.raises(Refused):
        chats.exchanges(chat, BEN)
    with pytest.raises(Refused):
        chats.stop(chat, BEN)
    assert store.counts() == rows


@pytest.mark.parametrize("index", [0, 2, 3, 99, -1, "1", None, [1, 1], True, 1.0])
def test_an_index_that_is_no_answer_is_refused(chats: Conversations, index: object):
    """Message 1 is the first answer; before it are questions, after it nothing."""
    chat, turn = asked(chats)
    assert chats.turn_at(chat, ANNA, 1, "answer 1 by base") == turn
    with pytest.raises(Refused):
        chats.turn_at(chat, ANNA, index, "answer 1 by base")


def test_another_text_than_was_given_is_refused(chats: Conversations):
    """What the page claims to show must be what the server has."""
    chat, _ = asked(chats)
    with pytest.raises(Refused, match="not the one that was given"):
        chats.turn_at(chat, ANNA, 1, "answer 1 by base, and bleach helps")


@pytest.mark.parametrize("question", ["", "  \n", "a\0b", "\ud800", "a" * 5_000_000, None, ["a"], {"a": 1}])
def test_unacceptable_questions_are_refused(chats: Conversations, store: Store, question: object):
    """What cannot be stored exactly is refused before a model sees it."""
    chat = chats.open(ANNA)
    with pytest.raises(Refused):
        list(chats.ask(chat, ANNA, question, True))
    assert not any(store.counts().values())


def test_odd_but_acceptable_text_is_stored_exactly(chats: Conversations, store: Store):
    """Control tokens, bidi marks and HTML are text like any other."""
    text = "a <|im_end|>\u202eb\u2066 <script>x</script> ![i](http://a.b/c) \r\n 👩‍⚕️"
    chat, turn = asked(chats, question=text)
    chats.comment(chat, ANNA, turn, text)
    chats.correct(chat, ANNA, turn, text)
    assert store.turn(turn).messages[-1]["content"] == text
    said = store.current_signals(turn, ANNA)
    assert {signal.value["text"] for signal in said.values()} == {text}


def test_a_red_flag_answers_before_the_model(chats: Conversations, engine: ScriptedEngine, store: Store):
    """The rule's own words are given, the model is not asked, and the turn says why."""
    chat, turn = asked(chats, question="I have CHEST  pain")
    stored = store.turn(turn)
    assert (stored.version, stored.finish, stored.red_flag) == ("rules", "red_flag", "heart")
    assert stored.answer == "Call **112** now."
    assert engine.asked == []
    chats.rate(chat, ANNA, turn, 1)
    with pytest.raises(Refused, match="safety notice"):
        list(chats.alternative(chat, ANNA, turn))
    with pytest.raises(Refused, match="safety notice"):
        chats.correct(chat, ANNA, turn, "It is nothing")


def test_a_rating_can_change_and_be_withdrawn(chats: Conversations, store: Store):
    """Each change of mind is one row; the same again is none."""
    chat, turn = asked(chats)
    chats.rate(chat, ANNA, turn, 0)
    assert store.counts()["signal"] == 0
    for rating, reasons, rows in (
        (1, (), 1),
        (1, (), 1),
        (1, ("clear",), 2),
        (-1, ("long", "wrong"), 3),
        (-1, ("wrong", "long"), 3),
        (0, (), 4),
        (0, (), 4),
    ):
        chats.rate(chat, ANNA, turn, rating, reasons)
        assert store.counts()["signal"] == rows
    assert chats.said(chat, ANNA, turn) == {"rating": {"rating": 0, "reasons": []}}


@pytest.mark.parametrize(
    ("rating", "reasons"),
    [(2, ()), ("1", ()), (True, ()), (None, ()), (1, ("wrong",)), (0, ("clear",)), (1, ("x",))],
)
def test_a_rating_that_is_not_on_offer_is_refused(chats: Conversations, store: Store, rating, reasons):
    """Up, down or neither, with the objective's own reasons for it."""
    chat, turn = asked(chats)
    with pytest.raises(Refused):
        chats.rate(chat, ANNA, turn, rating, reasons)
    assert store.counts()["signal"] == 0


def test_a_double_click_is_one_row(chats: Conversations, store: Store):
    """The same rating from eight threads at once is stored once."""
    chat, turn = asked(chats)
    clicks = [threading.Thread(target=chats.rate, args=(chat, ANNA, turn, 1)) for _ in range(8)]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert store.counts()["signal"] == 1


def test_a_correction_must_differ(chats: Conversations, store: Store):
    """The given answer, or nothing, is no better answer."""
    chat, turn = asked(chats)
    for text in ("answer 1 by base", " answer 1 by base\n", "", "  "):
        with pytest.raises(Refused):
            chats.correct(chat, ANNA, turn, text)
    chats.correct(chat, ANNA, turn, "Six glasses.")
    assert store.current_signals(turn, ANNA)["correction"].value == {"text": "Six glasses."}


def test_a_choice_is_between_the_servers_own_answers(
    chats: Conversations, engine: ScriptedEngine, store: Store
):
    """The second answer comes from the same version and is stored with the choice."""
    chat, turn = asked(chats)
    with pytest.raises(Refused, match="no second answer"):
        chats.choose(chat, ANNA, turn, 1)
    chats.promote("v1")
    second = list(chats.alternative(chat, ANNA, turn))[-1]
    assert second.text == second.exchange.alternative.answer == "answer 2 by base"
    assert engine.asked[-1][0] == engine.asked[0][0]
    assert engine.asked[-1][2].temperature > 0
    assert list(chats.alternative(chat, ANNA, turn))[-1].text == "answer 2 by base"
    for choice in (2, -1, "left", None, True, 1.0):
        with pytest.raises(Refused):
            chats.choose(chat, ANNA, turn, choice)
    assert store.counts()["signal"] == 0
    chats.choose(chat, ANNA, turn, "tie", "bad")
    chats.choose(chat, ANNA, choose_again(chats, chat, turn), 1)
    values = [signal.value for signal in store.events().signals]
    assert values == [
        {"alternatives": ["answer 2 by base"], "choice": "tie", "both": "bad"},
        {"alternatives": ["answer 3 by base"], "choice": 1},
    ]


def choose_again(chats: Conversations, chat: str, turn: str) -> str:
    list(chats.alternative(chat, ANNA, turn))
    return turn


@pytest.mark.parametrize(("choice", "goes_on_with"), [(0, "answer 1"), (1, "answer 2"), ("tie", "answer 1")])
def test_the_chat_goes_on_with_the_better_answer(
    chats: Conversations, engine: ScriptedEngine, store: Store, choice, goes_on_with: str
):
    """What was chosen is what the next question builds on, and what is there after a restart."""
    chat, turn = asked(chats)
    list(chats.alternative(chat, ANNA, turn))
    chosen = chats.choose(chat, ANNA, turn, choice)
    chats.rate(chat, ANNA, chosen.turn.id, 1)
    ask(chats, chat, "Tea?")
    assert engine.asked[-1][0][2]["content"].startswith(goes_on_with)
    anew = restarted(chats)
    assert [e.turn for e in anew.exchanges(chat, ANNA)] == [e.turn for e in chats.exchanges(chat, ANNA)]


def restarted(chats: Conversations) -> Conversations:
    """The same store under a server that remembers nothing."""
    return Conversations(chats._store, chats._engine, chats._objective, chats.champion, chats._now)


def test_a_conversation_is_there_after_a_restart(chats: Conversations, engine: ScriptedEngine, clock: Clock):
    """Its answers, what was said of them, its version and its name; for its own person only."""
    chat, turn = asked(chats)
    chats.rate(chat, ANNA, turn, -1, ["wrong"])
    chats.rename(chat, ANNA, "  About\nwater ")
    ask(chats, chats.open(ANNA), "Not kept?", consent=False)
    anew = restarted(chats)
    anew.promote("v1")
    assert [(h.conversation, h.title) for h in anew.headings(ANNA)] == [(chat, "About water")]
    assert anew.headings(BEN) == []
    assert anew.said(chat, ANNA, turn)["rating"].get("reasons") == ["wrong"]
    with pytest.raises(Refused, match="not yours"):
        anew.exchanges(chat, BEN)
    assert ask(anew, chat, "Tea?").version == "base"  # where it began, not long ago
    assert [m["content"] for m in engine.asked[-1][0]][1:] == ["Water?", "answer 1 by base", "Tea?"]


def test_an_edited_question_leaves_behind_what_followed_it(
    chats: Conversations, engine: ScriptedEngine, store: Store
):
    """The chat goes on from the new question, after a restart too; what was answered stays in the store."""
    chat, first = asked(chats)
    ask(chats, chat, "Tea?")
    ask(chats, chat, "Milk?")
    second = chats.exchanges(chat, ANNA)[1].turn.id
    list(chats.ask(chat, ANNA, "Coffee?", True, instead_of=second))
    assert [m["content"] for m in engine.asked[-1][0]][1:] == ["Water?", "answer 1 by base", "Coffee?"]
    for there in (chats, restarted(chats)):
        assert [e.question for e in there.exchanges(chat, ANNA)] == ["Water?", "Coffee?"]
        with pytest.raises(Refused, match="not asked in this chat"):
            list(there.ask(chat, ANNA, "Juice?", True, instead_of=second))
    assert store.counts()["turn"] == 4
    with pytest.raises(Refused):
        list(chats.ask(chat, BEN, "Juice?", True, instead_of=first))


def test_what_is_deleted_is_gone(chats: Conversations, store: Store):
    """With a chat go its answers, its name and all that anybody said of it; other chats stay."""
    chat, turn = asked(chats)
    chats.correct(chat, ANNA, turn, "Six glasses.")
    (correction,) = store.events().signals
    at = datetime(2026, 1, 1, tzinfo=UTC)
    store.add(
        Review("r1", correction.id, "dr", "reject", None, at),
        Judgement("j1", turn, "dr", "reject", ("r1",), None, at),
        Draft("d1", turn, "dr", "Seven.", at),
    )
    chats.rename(chat, ANNA, "Water")
    other, _ = asked(chats, BEN)
    mine, _ = asked(chats)
    with pytest.raises(Refused):
        chats.delete(chat, BEN)
    chats.delete(chat, ANNA)
    for there in (chats, restarted(chats)):
        assert [h.conversation for h in there.headings(ANNA)] == [mine]
        with pytest.raises(Refused, match="has ended"):
            there.exchanges(chat, ANNA)
    counts = store.counts()
    assert {k: counts[k] for k in ("turn", "signal", "review", "judgement", "draft", "title")} == {
        "turn": 2, "signal": 0, "review": 0, "judgement": 0, "draft": 0, "title": 0,
    }  # fmt: skip
    assert [event.payload for event in store.log("deleted")] == [
        {"person": person_digest(ANNA), "turns": [turn], "signals": [correction.id]}
    ]
    chats.delete_all(ANNA)
    assert chats.headings(ANNA) == [] and chats.everything(ANNA) == []
    assert [h.conversation for h in chats.headings(BEN)] == [other]


def test_a_chat_is_not_deleted_under_an_answer(chats: Conversations, store: Store):
    """What is being written would come back."""
    chat, _ = asked(chats)
    answering = chats.ask(chat, ANNA, "Tea?", True)
    next(answering)
    with pytest.raises(Refused, match="still being written"):
        chats.delete(chat, ANNA)
    answering.close()
    chats.delete(chat, ANNA)
    assert store.counts()["turn"] == 0


def test_a_person_takes_everything_with_them(chats: Conversations):
    """All that was asked, answered and said, and nothing of others."""
    chat, turn = asked(chats)
    chats.rate(chat, ANNA, turn, 1, ["clear"])
    asked(chats, BEN)
    (mine,) = chats.everything(ANNA)
    assert (mine["conversation"], mine["title"]) == (chat, "Water?")
    (answer,) = mine["answers"]
    assert answer["messages"][-1]["content"] == "Water?"
    assert [s["value"] for s in answer["said"]] == [{"rating": 1, "reasons": ["clear"]}]
    json.dumps(mine)


def test_what_was_said_can_be_taken_back(chats: Conversations, store: Store):
    """Rating, comment and better answer; saying nothing twice is one row."""
    chat, turn = asked(chats)
    chats.correct(chat, ANNA, turn, "Six glasses.")
    chats.comment(chat, ANNA, turn, "Odd.")
    assert len(store.awaiting_review()) == 1
    for _ in range(2):
        chats.take_correction_back(chat, ANNA, turn)
        chats.comment(chat, ANNA, turn, "  ")
    assert chats.said(chat, ANNA, turn) == {"correction": {"text": ""}, "comment": {"text": ""}}
    assert store.awaiting_review() == []
    assert store.counts()["signal"] == 4


def test_who_does_too_much_at_once_is_refused(chats: Conversations, store: Store):
    """The limits are asked before anything is done."""
    chat, turn = asked(chats)

    def limit(kind: str, person: str) -> None:
        raise Refused(f"{kind} by {person}")

    chats._limit = limit
    for act, kind in (
        (lambda: ask(chats, chat), "question"),
        (lambda: list(chats.alternative(chat, ANNA, turn)), "question"),
        (lambda: chats.rate(chat, ANNA, turn, 1), "rating"),
        (lambda: chats.comment(chat, ANNA, turn, "Odd."), "rating"),
    ):
        with pytest.raises(Refused, match=f"{kind} by anna"):
            act()
    assert (store.counts()["turn"], store.counts()["signal"]) == (1, 0)


def test_what_was_answered_before_a_stop_is_kept(chats: Conversations, store: Store):
    """Stopping ends the answer as cancelled; so does leaving."""
    chat = chats.open(ANNA)
    answering = chats.ask(chat, ANNA, "Water?", True)
    next(answering)
    next(answering)
    chats.stop(chat, ANNA)
    *_, last = answering
    assert (last.exchange.turn.finish, last.exchange.turn.answer) == ("cancelled", "answer 1 ")
    leaving = chats.ask(chat, ANNA, "Tea?", True)
    next(leaving)
    next(leaving)
    next(leaving)
    leaving.close()
    finishes = [(turn.finish, turn.answer) for turn in store.turns_of(chat)]
    assert finishes == [("cancelled", "answer 1 "), ("cancelled", "answer 2 by ")]
    assert ask(chats, chat).exchange.turn.finish == "stop"


def test_one_answer_at_a_time(chats: Conversations):
    """A second question waits for the first answer's end."""
    chat, turn = asked(chats)
    answering = chats.ask(chat, ANNA, "Tea?", True)
    next(answering)
    with pytest.raises(Refused, match="still being written"):
        list(chats.ask(chat, ANNA, "Milk?", True))
    with pytest.raises(Refused, match="still being written"):
        list(chats.alternative(chat, ANNA, turn))
    answering.close()
    ask(chats, chat, "Milk?")


def test_a_conversation_stays_on_its_version(chats: Conversations, clock: Clock):
    """A promotion reaches new chats at once, and one under way when it has been idle."""
    chat, _ = asked(chats)
    chats.promote("v1")
    clock.wait(minutes=29)
    assert ask(chats, chat).version == "base"
    assert ask(chats, chats.open(ANNA)).version == "v1"
    clock.wait(minutes=31)
    moved = ask(chats, chat)
    assert (moved.version, moved.moved) == ("v1", True)
    assert not ask(chats, chat).moved


def test_a_withdrawn_version_answers_no_more(chats: Conversations):
    """After a rollback the champion goes on with the chat at once, and the page can say so."""
    chats.promote("v1")
    chat, turn = asked(chats)
    with pytest.raises(RatchetError, match="promote another"):
        chats.withdraw("v1")
    chats.promote("base")
    chats.withdraw("v1")
    with pytest.raises(Refused, match="no longer serves"):
        list(chats.alternative(chat, ANNA, turn))
    moved = ask(chats, chat)
    assert (moved.version, moved.moved) == ("base", True)


def test_only_a_loaded_version_is_promoted(chats: Conversations):
    """The pointer never names what cannot answer."""
    with pytest.raises(RatchetError, match="not loaded"):
        chats.promote("v9")
    assert chats.champion == "base"


def test_former_champions_are_unloaded_when_nobody_is_on_them(
    chats: Conversations, engine: ScriptedEngine, clock: Clock
):
    """A version stays loaded while it serves, waits to serve, or has a chat on it."""
    chats.sweep()
    assert "v1" in engine.versions
    chats.promote("v1")
    asked(chats)
    chats.promote("base")
    chats.sweep()
    assert "v1" in engine.versions
    clock.wait(minutes=31)
    chats.sweep()
    assert engine.versions == {"base"}


def test_idle_conversations_are_forgotten(chats: Conversations, clock: Clock):
    """After half a day, memory lets go of a chat; the store brings a kept one back."""
    chat, _ = asked(chats)
    passing, _ = asked(chats, consent=False)
    clock.wait(minutes=12 * 60 + 1)
    chats.sweep()
    with pytest.raises(Refused, match="has ended"):
        ask(chats, passing)
    assert [e.question for e in chats.exchanges(chat, ANNA)] == ["Water?"]


def test_there_is_room_for_so_many_conversations(chats: Conversations, monkeypatch: pytest.MonkeyPatch):
    """The longest idle makes room for the newest."""
    monkeypatch.setattr("app.conversations.MAX_CONVERSATIONS", 3)
    first, *others = [chats.open(ANNA) for _ in range(4)]
    with pytest.raises(Refused, match="has ended"):
        chats.exchanges(first, ANNA)
    assert [chats.exchanges(chat, ANNA) for chat in others] == [[], [], []]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1 < 2 and **bold**", "1 < 2 and **bold**"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("<img src=http://a.b/c>", "&lt;img src=http://a.b/c>"),
        ("![x](http://a.b/c.png)", "[x](http://a.b/c.png)"),
        ("!!![x](http://a.b/c.png)", "[x](http://a.b/c.png)"),
        ("![x][y]\n\n[y]: http://a.b/c", "[x][y]\n\n[y]: http://a.b/c"),
        ("```mermaid\ngraph", "```\ngraph"),
    ],
)
def test_markdown_is_shown_without_html_images_or_diagrams(text: str, shown: str):
    """What a browser would run or fetch becomes text or a link."""
    assert safe_markdown(text) == shown
