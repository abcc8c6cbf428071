"""The review desk: who gets which answer, and what a verdict says to training."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.review import LEASE, PAGE, ReviewDesk
from eval.objective import Gate, Objective, SuitePlan
from eval.objective import Page as Words
from feedback.compiling.compiler import Compilation, Curation, compile_events
from feedback.errors import Lost, Refused
from feedback.history import forget
from feedback.records import Event, Judgement, Review, Signal, Turn, new_id
from feedback.review_queue import Filters, record_about
from feedback.schema import insert_many
from feedback.store import Store

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
ANSWER = "Asthma is a disease of the stomach that comes from cold water."
BETTER = "Asthma is a disease of the airways that makes breathing hard."
OWN = "It narrows the airways; an inhaler that is used early opens them again."
ALL_TRAIN = Curation(validation_share=0, held_out_share=0, min_words=3, max_words=30)


class Desk(ReviewDesk):
    """A desk whose clock the test moves, and its store."""

    def __init__(self, store: Store, home: Path):
        words = Words(consent="Keep it?", disclaimer="No advice.")
        objective = Objective(
            folder=home,
            title="Leaflet",
            system_prompt="Answer plainly.",
            base_model="tiny",
            encoder="tiny",
            page=words,
            curation=ALL_TRAIN,
            suites={"questions": SuitePlan(kind="questions", items=1, metrics=("similarity",))},
            gate=Gate(primary="similarity"),
        )
        self.time = START
        self.store = store
        super().__init__(store, objective, home, now=self.later)

    def later(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time

    def answer(self, turn: str, question: str = "What is asthma?", answer: str = ANSWER, **more) -> Turn:
        """An answer that somebody was given."""
        at = self.later()
        asked = ({"role": "user", "content": question},)
        given = {"conversation": "c" + turn, "user": "ann", "messages": asked, "version": "v0001", "at": at}
        self.store.add(record := Turn(id=turn, answer=answer, **given | more))
        return record

    def say(self, turn: str, kind: str, user: str = "ann", role: str = "user", **value) -> Signal:
        """What somebody says of it."""
        at = self.later()
        self.store.add(record := Signal(new_id(at), turn, user, role, kind, value, at))
        return record

    def queue(self, reviewer: str = "dora", **filters) -> list[str]:
        """The turns that wait, in the order in which `reviewer` has them."""
        return [place.turn.id for place in self.board(reviewer, Filters(**filters)).places]

    def in_hand(self, reviewer: str, **filters) -> str | None:
        item = self.board(reviewer, Filters(**filters)).item
        return item.place.turn.id if item else None

    def compiled(self) -> Compilation:
        return compile_events(self.store.events(), ALL_TRAIN, "Answer plainly.")

    def rows(self) -> set[tuple[str, str]]:
        """What training would be given: (kind, the better answer)."""
        return {(row.kind, row.chosen) for row in self.compiled().rows}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Store.open(tmp_path / "store.duckdb") as store:
        yield Desk(store, tmp_path)


# the queue


def test_what_people_objected_to_comes_first_and_says_why(desk: Desk):
    """Objections and red flags, then other ratings, then the rest; the newest first within each."""
    for turn in ("plain", "liked", "down", "commented", "corrected", "compared"):
        desk.answer(turn)
    desk.answer("flag", red_flag="chest-pain", version="rules")
    desk.answer("plain2")
    desk.say("liked", "rating", rating=1, reasons=[])
    desk.say("down", "rating", rating=-1, reasons=["not accurate", "too long"])
    desk.say("commented", "comment", text="Hm.")
    desk.say("corrected", "correction", text=BETTER)
    desk.say("corrected", "correction", user="bob", text=OWN)
    desk.say("compared", "choice", alternatives=["Another."], choice=1)
    board = desk.board("dora")
    assert [(place.turn.id, place.reasons) for place in board.places] == [
        ("flag", ["red flag: chest-pain"]),
        ("corrected", ["2 users corrected it"]),
        ("commented", ["commented"]),
        ("down", ["rated down: not accurate, too long"]),
        ("compared", ["compared"]),
        ("liked", ["rated up"]),
        ("plain2", ["nothing said of it"]),
        ("plain", ["nothing said of it"]),
    ]
    assert board.waiting == 8
    assert board.item.place.turn.id == "flag"


def test_what_is_taken_back_is_no_reason(desk: Desk):
    """A withdrawn rating or correction puts nothing first."""
    desk.answer("t1")
    desk.say("t1", "rating", rating=-1, reasons=[])
    desk.say("t1", "rating", rating=0, reasons=[])
    desk.say("t1", "correction", text=BETTER)
    desk.say("t1", "correction", text="")
    assert [place.reasons for place in desk.board("dora").places] == [["nothing said of it"]]


def test_imported_answers_come_when_users_spoke_of_them(desk: Desk):
    """A file's answers without a word wait for nobody; those that a reviewer judged in the file need no desk."""
    for turn in ("silent", "user", "reviewer", "both"):
        desk.answer(turn, source="old.jsonl")
    desk.say("user", "rating", rating=-1, reasons=[])
    desk.say("reviewer", "correction", user="dr", role="reviewer", text=BETTER)
    desk.say("both", "correction", text=OWN)
    desk.say("both", "rating", user="dr", role="reviewer", rating=-1, reasons=[])
    assert desk.queue() == ["user"]


def test_filters_and_search_narrow_the_queue(desk: Desk):
    """By reason, version and source, and by words of the last question or the answer, in any case."""
    before = ({"role": "user", "content": "Role of CONTENT?"}, {"role": "assistant", "content": "Yes."})
    last = {"role": "user", "content": 'What is a "Migräne"?'}
    desk.answer("t1", messages=(*before, last), version="v0002")
    desk.answer("t2")
    desk.answer("t3", source="old.jsonl")
    desk.say("t3", "comment", text="Hm.")
    assert desk.queue(version="v0002") == ["t1"]
    assert (desk.queue(imported=True), desk.queue(imported=False)) == (["t3"], ["t2", "t1"])
    assert desk.queue(reason="commented") == ["t3"]
    assert desk.queue(reason="unrated", version="v0001") == ["t2"]
    assert desk.queue(search='"migräne') == ["t1"]
    assert desk.queue(search="DISEASE OF THE STOMACH") == ["t3", "t2", "t1"]
    assert desk.queue(search="content") == []  # neither an earlier question nor how it is kept
    assert desk.queue(search="%") == []
    assert desk.versions() == ["v0001", "v0002"]
    desk.open("dora", "t3")
    desk.narrow("dora", Filters(reason="commented"))
    assert desk.in_hand("dora", reason="commented") == "t3"
    desk.narrow("dora", Filters(version="v0002"))
    assert desk.in_hand("dora", version="v0002") == "t1"
    with pytest.raises(Refused, match="no reason"):
        desk.queue(reason="true; DROP TABLE turn")


def test_a_correction_that_was_reviewed_elsewhere_is_done(desk: Desk):
    """Approved on the command line it needs no desk; rejected it is no reason any more."""
    for turn in ("yes", "no"):
        desk.answer(turn)
        signal = desk.say(turn, "correction", text=BETTER)
        at = desk.later()
        verdict = "approve" if turn == "yes" else "reject"
        desk.store.add(Review(new_id(at), signal.id, "ops", verdict, None, at))
    assert [(place.turn.id, place.reasons) for place in desk.board("dora").places] == [
        ("no", ["nothing said of it"])
    ]


def test_a_later_correction_brings_an_answer_back(desk: Desk):
    """What was judged leaves the queue, until a user corrects it after that."""
    desk.answer("t1")
    desk.judge("dora", "t1", "reject", ANSWER)
    assert desk.queue() == []
    desk.say("t1", "rating", rating=-1, reasons=[])
    assert desk.queue() == []
    desk.say("t1", "correction", text=BETTER)
    assert desk.queue() == ["t1"]
    desk.judge("dora", "t1", "correct", BETTER)
    assert desk.queue() == []


def test_a_skipped_answer_comes_last_and_only_for_who_skipped(desk: Desk):
    """It goes to the end for that reviewer; the others have it where it was."""
    for turn in ("t1", "t2", "t3"):
        desk.answer(turn)
    desk.judge("dora", "t3", "skip", ANSWER)
    desk.judge("dora", "t2", "skip", ANSWER)
    assert desk.queue("dora") == ["t1", "t3", "t2"]
    assert desk.board("dora").places[1].reasons == ["nothing said of it", "you skipped it"]
    assert desk.queue("emil") == ["t3", "t2", "t1"]


def test_a_long_queue_comes_as_one_page(desk: Desk):
    """Never more than a page leaves the store, however many wait."""
    turns = [desk_turn(f"t{i:05}") for i in range(5000)]
    desk.store.write(lambda connection: insert_many(connection, "turn", turns))
    board = desk.board("dora")
    assert (len(board.places), board.waiting) == (PAGE, 5000)
    assert board.item.place.turn.id == "t04999"


def desk_turn(turn: str) -> Turn:
    """One of many."""
    return Turn(turn, "c", "ann", ({"role": "user", "content": "What?"},), ANSWER, "v0001", START)


def test_no_query_counts_over_a_whole_window():
    """`count(*) OVER ()` can bring a whole DuckDB 1.5 down, for everybody (duckdb/duckdb#22846)."""
    for file in (Path(__file__).parent.parent / "feedback").glob("*.py"):
        assert not re.search(r"OVER\s*\(\s*\)", file.read_text("utf-8")), file.name


# leases


def test_two_reviewers_never_have_the_same_answer(desk: Desk):
    """Each gets the first that nobody has, and the same one again until it is judged."""
    for turn in ("t1", "t2", "t3"):
        desk.answer(turn)
    assert [desk.in_hand(who) for who in ("dora", "emil", "dora", "emil")] == ["t3", "t2", "t3", "t2"]
    assert desk.board("emil").others == {"t3": "dora"}
    with pytest.raises(Lost, match="dora has this answer in hand"):
        desk.open("emil", "t3")
    desk.judge("dora", "t3", "approve", ANSWER)
    assert desk.in_hand("dora") == "t1"
    assert desk.in_hand("fay") is None


def test_many_at_once_share_nothing(desk: Desk):
    """Whoever asks at the same time, no answer is given or judged twice."""
    for i in range(12):
        desk.answer(f"t{i:02}")

    def work(reviewer: str) -> list[str]:
        mine = []
        while (turn := desk.in_hand(reviewer)) is not None:
            desk.judge(reviewer, turn, "approve", ANSWER)
            mine.append(turn)
        return mine

    with ThreadPoolExecutor(4) as pool:
        done = [turn for mine in pool.map(work, ["dora", "emil", "fay", "gus"]) for turn in mine]
    assert sorted(done) == [f"t{i:02}" for i in range(12)]


def test_a_dead_browser_lets_go(desk: Desk):
    """Without a sign of life the next reviewer gets the answer; with one it stays."""
    desk.answer("t1")
    assert desk.in_hand("dora") == "t1"
    desk.time += LEASE * 0.9
    desk.heartbeat("dora", "t1")
    desk.time += LEASE * 0.9
    assert desk.in_hand("emil") is None
    desk.time += LEASE
    assert desk.in_hand("emil") == "t1"
    with pytest.raises(Lost, match="emil has this answer"):
        desk.heartbeat("dora", "t1")


def test_a_judgement_after_the_lease_is_refused_and_its_text_kept(desk: Desk):
    """Nothing is stored but the draft, which waits for its writer."""
    desk.answer("t1")
    desk.in_hand("dora")
    desk.time += LEASE
    desk.in_hand("emil")
    with pytest.raises(Lost, match="emil has this answer in hand now; what you wrote is kept"):
        desk.judge("dora", "t1", "correct", OWN)
    assert (desk.store.counts()["judgement"], desk.store.counts()["signal"]) == (0, 0)
    desk.put_down("emil")
    item = desk.board("dora").item
    assert (item.text, item.draft) == (OWN, True)


def test_a_lapsed_lease_that_nobody_took_still_judges(desk: Desk):
    """A long thought costs nothing while nobody else wants the answer."""
    desk.answer("t1")
    desk.in_hand("dora")
    desk.time += 10 * LEASE
    assert desk.judge("dora", "t1", "approve", ANSWER) == "Approved."


def test_an_answer_is_judged_once(desk: Desk):
    """A second click, or a second window, finds it judged."""
    desk.answer("t1")
    desk.judge("dora", "t1", "approve", ANSWER)
    for reviewer in ("dora", "emil"):
        with pytest.raises(Lost, match="judged already"):
            desk.judge(reviewer, "t1", "reject", ANSWER)
    assert desk.store.counts()["judgement"] == 1


def test_a_deleted_answer_is_gone(desk: Desk):
    """Its person took it back: one line says so, and nothing is stored about it."""
    turn = desk.answer("t1")
    desk.in_hand("dora")
    forget(desk.store, turn.user, [turn.conversation], desk.later())
    with pytest.raises(Lost, match="deleted this answer"):
        desk.judge("dora", turn.id, "approve", ANSWER)
    with pytest.raises(Lost, match="deleted this answer"):
        record_about(desk.store, turn.id, desk_turn("t2"))
    assert desk.in_hand("dora") is None
    assert {table for table, rows in desk.store.counts().items() if rows} == {"event"}


# drafts


def test_a_draft_comes_back(desk: Desk):
    """The editor starts from the draft, else from the user's correction, else from the answer."""
    desk.answer("t1")
    assert desk.board("dora").item.text == ANSWER
    desk.say("t1", "correction", text=BETTER)
    assert desk.board("dora").item.text == BETTER
    assert desk.save_draft("dora", "t1", OWN)
    assert not desk.save_draft("dora", "t1", OWN)
    item = desk.board("dora").item
    assert (item.text, item.draft) == (OWN, True)
    desk.put_down("dora")
    assert desk.board("emil").item.text == BETTER
    desk.put_down("emil")
    assert desk.save_draft("dora", "t1", "  ")  # emptied: begin again
    assert desk.board("dora").item.text == BETTER
    desk.save_draft("dora", "t1", OWN)
    desk.say("t1", "correction", text=BETTER + " Always.")
    assert desk.board("dora").item.text == BETTER + " Always."


def test_a_draft_that_comes_twice_at_once_is_kept_once(desk: Desk):
    """The page keeps what is typed by itself, also while a verdict brings the same text."""
    desk.answer("t1")
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda _: desk.save_draft("dora", "t1", OWN), range(8)))
    assert sum(kept) == 1


def test_an_untouched_editor_is_no_draft(desk: Desk):
    """What the editor started with is not kept, nor is a text that cannot be stored."""
    desk.answer("t1")
    assert not desk.save_draft("dora", "t1", ANSWER)
    assert not desk.save_draft("dora", "t1", "")
    assert not desk.save_draft("dora", "no such turn", OWN)
    for text in ("NUL \0", "half \ud800", "x" * 100_001):
        with pytest.raises(Refused):
            desk.save_draft("dora", "t1", text)
    assert desk.store.counts()["draft"] == 0


# what a verdict says to training


def test_an_approved_answer_is_learnt(desk: Desk):
    """A reviewer's like outranks a user's dislike, and a user's correction of it is rejected."""
    desk.answer("t1")
    desk.say("t1", "rating", rating=-1, reasons=["too long"])
    desk.say("t1", "correction", text=BETTER)
    assert desk.judge("dora", "t1", "approve", BETTER) == "Approved."
    assert desk.rows() == {("sft", ANSWER), ("unpaired", ANSWER)}
    (judgement,) = desk.store.records(Judgement)
    (review,) = desk.store.records(Review)
    rating = desk.store.records(Signal)[-1]
    assert (rating.user, rating.role, rating.value) == ("dora", "reviewer", {"rating": 1, "reasons": []})
    assert judgement.given == (rating.id, review.id)


def test_a_correction_is_learnt_and_preferred(desk: Desk):
    """The reviewer's own text, where no user wrote one."""
    desk.answer("t1")
    assert desk.judge("dora", "t1", "correct", f" {OWN}\n") == "Corrected."
    assert desk.rows() == {("sft", OWN), ("preference", OWN)}


def test_a_users_correction_is_approved_as_it_is(desk: Desk):
    """The user's signal is the source, and another user's that waited is rejected."""
    desk.answer("t1")
    desk.say("t1", "correction", user="bob", text=OWN)
    signal = desk.say("t1", "correction", text=BETTER)
    desk.judge("dora", "t1", "correct", BETTER)
    assert desk.rows() == {("sft", BETTER), ("preference", BETTER)}
    assert {source for row in desk.compiled().rows for source in row.sources} == {signal.id}
    assert {(r.signal == signal.id, r.verdict, r.text) for r in desk.store.records(Review)} == {
        (True, "approve", None),
        (False, "reject", None),
    }


def test_a_users_correction_is_approved_with_changes(desk: Desk):
    """What is near to the user's text is their correction, edited."""
    desk.answer("t1")
    signal = desk.say("t1", "correction", text=BETTER)
    edited = BETTER.replace("hard", "difficult")
    desk.judge("dora", "t1", "correct", edited)
    (review,) = desk.store.records(Review)
    assert (review.signal, review.verdict, review.text) == (signal.id, "approve", edited)
    assert desk.rows() == {("sft", edited), ("preference", edited)}


def test_ones_own_correction_rejects_the_users(desk: Desk):
    """What is nearer to the answer is the reviewer's own work on it."""
    desk.answer("t1")
    desk.say("t1", "correction", text="Drink garlic water and it will all go away soon.")
    own = ANSWER.replace("stomach", "airways")
    desk.judge("dora", "t1", "correct", own)
    assert [review.verdict for review in desk.store.records(Review)] == ["reject"]
    assert desk.rows() == {("sft", own), ("preference", own)}


@pytest.mark.parametrize(("verdict", "reasons"), [("reject", []), ("unsafe", ["unsafe"])])
def test_a_rejected_answer_is_not_learnt(desk: Desk, verdict: str, reasons: list[str]):
    """A user's like gives no row against a reviewer's word, nor does their correction."""
    desk.answer("t1")
    desk.say("t1", "rating", rating=1, reasons=[])
    desk.say("t1", "correction", user="bob", text=BETTER)
    desk.judge("dora", "t1", verdict, BETTER)
    assert {(row.kind, row.label) for row in desk.compiled().rows} == {("unpaired", False)}
    assert desk.store.records(Signal)[-1].value == {"rating": -1, "reasons": reasons}


def test_skipping_says_nothing(desk: Desk):
    """A skip is kept as a judgement only."""
    desk.answer("t1")
    assert desk.judge("dora", "t1", "skip", ANSWER).startswith("Skipped")
    assert (desk.store.counts()["judgement"], desk.store.counts()["signal"]) == (1, 0)
    assert desk.in_hand("dora") == "t1"  # there is nothing else


def test_verdicts_that_make_no_sense_are_refused(desk: Desk):
    """An unchanged correction, an approval of what was changed, a correction of a fixed notice."""
    desk.answer("t1")
    desk.answer("flag", red_flag="chest-pain", version="rules")
    for verdict, text, words in (
        ("correct", ANSWER + "\n", "change it, or approve it"),
        ("correct", " ", "is empty"),
        ("approve", OWN, "save it as a correction"),
        ("undo", ANSWER, "no verdict"),
    ):
        with pytest.raises(Refused, match=words):
            desk.judge("dora", "t1", verdict, text)
    with pytest.raises(Refused, match="fixed safety notice"):
        desk.judge("dora", "flag", "correct", OWN)
    counts = desk.store.counts()
    assert (counts["judgement"], counts["signal"], counts["review"]) == (0, 0, 0)
    assert desk.in_hand("dora") == "flag"
    desk.judge("dora", "flag", "unsafe", "")
    assert desk.queue() == ["t1"]


def test_a_correction_that_training_would_leave_out_says_so(desk: Desk):
    """It is stored all the same; the domain's limits may change."""
    desk.answer("t1")
    assert desk.judge("dora", "t1", "correct", "No.") == (
        "Corrected. Training will leave it out: it has too few words."
    )


# undo


@pytest.mark.parametrize("verdict", ["approve", "correct", "reject", "unsafe", "skip"])
@pytest.mark.parametrize("users_word", [None, BETTER])
def test_undo_leaves_nothing(desk: Desk, verdict: str, users_word: str | None):
    """Nothing of a judgement reaches training any more, and the answer is in hand again with its text."""
    desk.answer("t1")
    desk.answer("t2")
    if users_word:
        desk.say("t1", "correction", text=users_word)
    before = desk.board("emil").waiting, desk.rows()
    desk.put_down("emil")
    text = users_word or (OWN if verdict == "correct" else ANSWER)
    desk.open("dora", "t1")
    desk.judge("dora", "t1", verdict, text)
    assert desk.undo("dora") == f"Taken back: {verdict}."
    board = desk.board("dora")
    assert (board.waiting, desk.rows()) == before
    assert (board.item.place.turn.id, board.item.text) == ("t1", text)
    assert not board.item.place.skipped
    assert desk.compiled().signals.dropped.get("awaiting_review", 0) == bool(users_word)


def test_undo_goes_back_step_by_step_over_ones_own_only(desk: Desk):
    """The last, then the one before; never another's, and then there is nothing."""
    for turn in ("t1", "t2", "t3"):
        desk.answer(turn)
    desk.judge("dora", "t1", "approve", ANSWER)
    desk.judge("emil", "t3", "reject", ANSWER)
    desk.judge("dora", "t2", "reject", ANSWER)
    assert desk.undo("dora") == "Taken back: reject."
    assert desk.in_hand("dora") == "t2"
    assert desk.undo("dora") == "Taken back: approve."
    assert desk.in_hand("dora") == "t1"
    with pytest.raises(Refused, match="nothing to take back"):
        desk.undo("dora")
    assert desk.queue() == ["t2", "t1"]
    desk.judge("dora", "t1", "reject", ANSWER)
    assert desk.undo("dora") == "Taken back: reject."


def test_undo_while_another_has_it_says_so(desk: Desk):
    """A skipped answer may be in other hands; it is not torn out of them."""
    desk.answer("t1")
    desk.judge("dora", "t1", "skip", ANSWER)
    assert desk.in_hand("emil") == "t1"
    assert desk.undo("dora") == "Taken back: skip. Another reviewer has the answer in hand now."
    assert desk.in_hand("dora") is None


# progress


def test_progress_counts_work_and_not_pauses(desk: Desk):
    """Judged today and in all; by the hour only while at work; skips and what was undone do not count."""
    for i in range(8):
        desk.answer(f"t{i}")
    desk.time = datetime(2026, 3, 1, 12).astimezone()
    desk.judge("dora", "t0", "approve", ANSWER)
    desk.time = datetime(2026, 3, 2, 12).astimezone()
    assert desk.progress("dora").per_hour is None
    for i, (minutes, verdict) in enumerate(
        ((0, "approve"), (1, "reject"), (1, "skip"), (45, "unsafe"), (2, "correct"), (0, "approve")), start=1
    ):
        desk.time += timedelta(minutes=minutes)
        desk.judge("dora", f"t{i}", verdict, OWN if verdict == "correct" else ANSWER)
    desk.undo("dora")
    progress = desk.progress("dora")
    assert (progress.today, progress.in_all) == (4, 5)
    assert progress.per_hour == pytest.approx(2 / 4 * 60, rel=0.01)
    assert desk.progress("emil").in_all == 0


def test_the_fate_of_a_correction_is_told(desk: Desk, tmp_path: Path):
    """It waits, is frozen, is learnt, serves; or was left out."""
    for turn in ("t1", "t2", "t3"):
        desk.answer(turn, question=f"About {turn}?")
    users = desk.say("t1", "correction", text=BETTER)
    desk.judge("dora", "t1", "correct", BETTER)
    desk.judge("dora", "t2", "correct", OWN)
    own = desk.store.records(Signal)[-1]
    assert told(desk) == [
        ("About t2?", "waits for the next round"),
        ("About t1?", "waits for the next round"),
    ]

    freeze(tmp_path, "aaaa", desk.later(), users.id)
    assert told(desk)[1] == ("About t1?", "in dataset aaaa; no version has finished training on it")
    assert told(desk)[0][1].startswith("left out of the last dataset")
    train(tmp_path, "v0001", "aaaa")
    assert told(desk)[1] == ("About t1?", "learnt by v0001, which does not serve")
    freeze(tmp_path, "bbbb", desk.later(), users.id, own.id)
    train(tmp_path, "v0002", "bbbb")
    at = desk.later()
    desk.store.add(Event(new_id(at), "promote", "ops", {"version": "v0002"}, at))
    assert [fate.serves for fate in desk.fates("dora")] == [True, True]
    assert told(desk)[0] == ("About t2?", "learnt by v0002, which serves")
    desk.undo("dora")
    assert [question for question, _ in told(desk)] == ["About t1?"]
    assert desk.fates("emil") == []


def told(desk: Desk) -> list[tuple[str, str]]:
    return [(fate.question, fate.became) for fate in desk.fates("dora")]


def freeze(home: Path, name: str, at: datetime, *signals: str) -> None:
    """As much of a frozen dataset as tells what is in it."""
    folder = home / "datasets" / name
    folder.mkdir(parents=True)
    manifest = {"hash": name, "sources": {"feedback": signals}, "created_at": at.isoformat()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def train(home: Path, version: str, dataset: str) -> None:
    """As much of a run as tells what it was trained on."""
    folder = home / "runs" / version
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"version": version, "dataset_hash": dataset}))
