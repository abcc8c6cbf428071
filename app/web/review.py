"""The review desk's page. It shows what the desk knows and passes on what a reviewer does; it decides nothing.

The browser says which answer it shows and what its editor holds; the desk checks both. The live comparison and
the keyboard are the script's (static/review.js), which only reads the page and clicks its buttons.
"""

import html
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import gradio as gr

from app.review import LEASE, Board, Fate, Item, ReviewDesk
from app.web.display import safe_markdown
from app.web.edge import UNQUEUED, Updates, shortened
from eval.objective import Objective
from feedback.errors import Lost, RatchetError
from feedback.privacy import Redactor
from feedback.records import Judged, Signal, Turn
from feedback.review_queue import REASONS, Filters, Place
from feedback.text import MAX_CHARACTERS

STATIC = Path(__file__).parent / "static"
STYLES = STATIC / "review.css"
HEAD = f"<script>{(STATIC / 'review.js').read_text('utf-8')}</script>"
EVERYTHING = "all"
LINE = 110  # characters of a question in a list
GLANCE = 2000  # characters of a question that its line can come from
SOURCES = {EVERYTHING: None, "the chat": False, "imported": True}
BEAT = LEASE.total_seconds() / 6  # seconds between two signs of life
SAY_WHICH = """
element.addEventListener('click', event => {
  const row = event.target.closest('button[data-turn]');
  if (row) trigger('select', {turn: row.dataset.turn});
})"""


def review_page(desk: ReviewDesk, objective: Objective) -> gr.Blocks:
    """The page of one installation; mount it with STYLES and HEAD, behind a sign-in."""
    with gr.Blocks(title=f"Review · {objective.title}", analytics_enabled=False, fill_width=True) as page:
        review = ReviewPage(desk, objective)
        review.lay_out()
        review.connect()
        page.load(review.welcome, None, review.everything, **UNQUEUED)
    return page


class ReviewPage:
    """The parts of the page as attributes, and what happens when one is used."""

    def __init__(self, desk: ReviewDesk, objective: Objective):
        self._desk = desk
        self._objective = objective
        self._redactor = Redactor(objective.curation.language, objective.curation.help_lines)

    # what there is to see

    def lay_out(self) -> None:
        """Everything, inside the open Blocks: the queue on the left, the item on the right."""
        with gr.Column(elem_id="desk"):
            with gr.Row(elem_id="top"):
                gr.HTML(f"<h1>Review desk</h1><p>{html.escape(self._objective.title)}</p>", elem_id="title")
                self.progress = gr.HTML(elem_id="progress")
                self.person = gr.HTML(elem_id="person")
            with gr.Row(elem_id="columns"):
                with gr.Column(elem_id="side", scale=0, min_width=280):
                    self._lay_out_queue()
                with gr.Column(elem_id="work", scale=1, min_width=320):
                    self._lay_out_item()

    def _lay_out_queue(self) -> None:
        gr.HTML(
            "<button type='button' id='fold' aria-expanded='false' aria-controls='queue'>Show the queue</button>"
        )
        with gr.Column(elem_id="queue"):
            self.search = gr.Textbox(
                label="Search", placeholder="in question or answer", max_length=200, elem_id="search"
            )
            reasons = [("all", EVERYTHING), *((words, key) for key, words in REASONS.items())]
            self.reason = gr.Dropdown(reasons, value=EVERYTHING, label="Reason", elem_id="reason")
            with gr.Row(elem_id="narrow"):
                self.version = gr.Dropdown(
                    [EVERYTHING], value=EVERYTHING, label="Version", elem_id="version", min_width=100
                )
                self.source = gr.Dropdown(
                    [*SOURCES], value=EVERYTHING, label="Source", elem_id="source", min_width=100
                )
            self.places = gr.HTML(elem_id="places", js_on_load=SAY_WHICH)
            self.fates = gr.HTML(elem_id="fates")

    def _lay_out_item(self) -> None:
        self.turn = gr.Textbox(visible="hidden", elem_id="turn")  # which answer the browser shows
        self.notice = gr.HTML(elem_id="notice")
        self.about = gr.HTML(elem_id="about")
        with gr.Column(elem_id="item", visible=False) as self.item:
            with gr.Row(elem_id="panes"):
                with gr.Column(elem_id="given", min_width=300):
                    gr.HTML("<h2>The answer</h2>")
                    self.answer = gr.Markdown(elem_id="answer", latex_delimiters=[])
                    self.said = gr.HTML(elem_id="said")
                with gr.Column(elem_id="better", min_width=300):
                    self.editor = gr.Textbox(
                        label="Your better answer",
                        lines=9,
                        max_lines=24,
                        max_length=MAX_CHARACTERS,
                        elem_id="editor",
                    )
                    self.kept = gr.HTML(elem_id="kept")
                    gr.HTML(
                        "<section aria-label='Changes to the answer'><h2>Changes</h2><p id='diff'></p></section>"
                    )
            with gr.Row(elem_id="verdicts"):
                self.verdicts = {
                    "approve": gr.Button("Approve", elem_id="approve", min_width=90),
                    "correct": gr.Button("Correct", variant="primary", elem_id="correct", min_width=90),
                    "reject": gr.Button("Reject", elem_id="reject", min_width=90),
                    "unsafe": gr.Button("Unsafe", elem_id="unsafe", min_width=90),
                    "skip": gr.Button("Skip", elem_id="skip", min_width=90),
                }
        with gr.Row(elem_id="more"):
            self.undo = gr.Button("Undo my last", size="sm", elem_id="undo", scale=0, min_width=160)
            gr.HTML(
                "<p>Keys work outside of the editor (<kbd>Esc</kbd> leaves it, <kbd>E</kbd> enters it), and with "
                "<kbd>Alt</kbd> everywhere. <kbd>Ctrl</kbd> <kbd>Enter</kbd> saves the correction.</p>",
                elem_id="keys",
            )
        self.keep = gr.Button("Keep the draft", elem_id="keep", elem_classes="unseen")  # the script's
        self.beat = gr.Timer(BEAT)

    # what happens

    def connect(self) -> None:
        """Tie each part to what it does."""
        self.filters = [self.reason, self.version, self.source, self.search]
        self.shown = [self.turn, self.about, self.item, self.answer, self.said, self.editor, self.kept]
        self.shown += [self.places, self.notice, self.progress, self.fates, self.verdicts["correct"]]
        self.everything = [*self.shown, self.person, self.version]
        for verdict, button in self.verdicts.items():
            judging = [self.turn, self.editor, *self.filters]
            button.click(self._judging(verdict), judging, self.shown, **UNQUEUED)
        self.undo.click(self.take_back, [self.turn, self.editor, *self.filters], self.shown, **UNQUEUED)
        for part in self.filters[:-1]:
            part.input(self.narrow, [self.turn, self.editor, *self.filters], self.shown, **UNQUEUED)
        searching = UNQUEUED | {"trigger_mode": "always_last"}
        # `input` would miss what is pasted or deleted.
        self.search.change(self.narrow, [self.turn, self.editor, *self.filters], self.shown, **searching)
        self.places.select(self.choose, [self.turn, self.editor, *self.filters], self.shown, **UNQUEUED)
        self.keep.click(self.keep_draft, [self.turn, self.editor], self.kept, **UNQUEUED)
        self.beat.tick(self.live, [self.turn, *self.filters], self.shown, **UNQUEUED)

    def welcome(self, request: gr.Request) -> Updates:
        """The page as it opens: who is here, and the item in hand or the first that waits."""
        name = html.escape(request.username or "")
        out = (
            f"<form method='post' action='/sign-out'><span>Signed in as <strong>{name}</strong></span>"
            "<button type='submit'>Sign out</button></form>"
        )
        versions = gr.update(choices=[EVERYTHING, *self._desk.versions()])
        return {self.person: out, self.version: versions} | self._board(request.username, Filters())

    def _judging(self, verdict: Judged) -> Callable[..., Updates]:
        def judge(
            turn: str,
            text: str,
            reason: str,
            version: str,
            source: str,
            search: str,
            request: gr.Request,
        ) -> Updates:
            filters = _filters(reason, version, source, search)
            done = partial(self._desk.judge, request.username, turn, verdict, text or "")
            return self._after(request.username, filters, done)

        return judge

    def take_back(
        self, turn: str, text: str, reason: str, version: str, source: str, search: str, request: gr.Request
    ) -> Updates:
        """Undo the reviewer's last judgement; its item comes back."""

        def work() -> str:
            self._keep(turn, text, request)
            return self._desk.undo(request.username)

        return self._after(request.username, _filters(reason, version, source, search), work)

    def narrow(
        self, turn: str, text: str, reason: str, version: str, source: str, search: str, request: gr.Request
    ) -> Updates:
        """Other filters: the item in hand if it fits them, else the first that does."""
        filters = _filters(reason, version, source, search)

        def work() -> str:
            self._keep(turn, text, request)
            self._desk.narrow(request.username, filters)
            return ""

        return self._after(request.username, filters, work)

    def choose(
        self,
        turn: str,
        text: str,
        reason: str,
        version: str,
        source: str,
        search: str,
        chosen: gr.EventData,
        request: gr.Request,
    ) -> Updates:
        """Another item of the list instead of the one in hand."""

        def work() -> str:
            self._keep(turn, text, request)
            self._desk.open(request.username, str(chosen.turn))
            return ""

        return self._after(request.username, _filters(reason, version, source, search), work)

    def keep_draft(self, turn: str, text: str, request: gr.Request) -> str:
        """Keep what the editor holds; says so, or why not."""
        try:
            kept = self._keep(turn, text, request)
        except RatchetError as error:
            return _notice(f"Draft not kept: {error}")
        return "<p>Draft kept</p>" if kept else gr.skip()

    def live(
        self, turn: str, reason: str, version: str, source: str, search: str, request: gr.Request
    ) -> Updates:
        """A sign of life: the item stays in hand; where none is, whatever has come by now is shown."""
        filters = _filters(reason, version, source, search)
        if not turn:
            return self._board(request.username, filters)
        try:
            self._desk.heartbeat(request.username, turn)
        except Lost as lost:
            return {self.notice: _notice(f"Not yours any more: {lost}.")}
        return {self.notice: gr.skip()}

    def _keep(self, turn: str, text: str, request: gr.Request) -> bool:
        return bool(turn) and self._desk.save_draft(request.username, turn, text or "")

    # the page as the desk knows it

    def _after(self, reviewer: str, filters: Filters, work: Callable[[], str]) -> Updates:
        """The page after `work`; what was refused is said where the eye is, and changes nothing else.

        Gradio shows no error of an event that does not queue, so none is raised.
        """
        try:
            notice = work()
        except Lost as lost:
            notice = f"Not done: {lost}."
        except RatchetError as error:
            return {self.notice: _notice(f"Not done: {error}.")}
        return self._board(reviewer, filters, notice)

    def _board(self, reviewer: str, filters: Filters, notice: str = "") -> Updates:
        board = self._desk.board(reviewer, filters)
        tally, fates = self._desk.progress(reviewer), self._desk.fates(reviewer)
        pace = f" · {tally.per_hour:.0f} an hour" if tally.per_hour else ""
        counts = f"<p><strong>{tally.today}</strong> today · {tally.in_all} in all{pace}</p>"
        return {
            self.places: _list_of(board, self._line),
            self.notice: _notice(notice),
            self.progress: counts,
            self.fates: _fates_of(fates, self._line),
            self.kept: "<p>Your draft, as you left it</p>" if board.item and board.item.draft else "",
        } | (self._item(board.item) if board.item else self._nothing(filters))

    def _line(self, question: str) -> str:
        """A question in a list: short, and without personal data, which is for whoever has it in hand."""
        return shortened(self._redactor.redact(question[:GLANCE]), LINE)

    def _item(self, item: Item) -> Updates:
        place, by_model = item.place, item.place.turn.red_flag is None
        corrected = bool(place.corrections)
        return {
            self.turn: place.turn.id,
            self.about: _about(place),
            self.item: gr.update(visible=True),
            self.answer: safe_markdown(place.turn.answer),
            self.said: _said(place),
            self.editor: gr.update(
                value=item.text,
                interactive=by_model,
                label="The user's correction: edit it as you like" if corrected else "Your better answer",
            ),
            self.verdicts["correct"]: gr.update(
                interactive=by_model, value="Use correction" if corrected else "Correct"
            ),
        }

    def _nothing(self, filters: Filters) -> Updates:
        words = "Nothing waits here." if filters == Filters() else "Nothing waits that fits these filters."
        return {
            self.turn: "",
            self.about: f"<div class='empty'><h2>{words}</h2><p>New answers appear by themselves.</p></div>",
            self.item: gr.update(visible=False),
        }


def _filters(reason: str, version: str, source: str, search: str) -> Filters:
    return Filters(
        reason=None if reason == EVERYTHING else reason,
        version=None if version == EVERYTHING else version,
        imported=SOURCES.get(source),
        search=(search or "").strip(),
    )


# how things look


def _notice(text: str) -> str:
    return f"<p role='status'>{html.escape(text)}</p>"


def _list_of(board: Board, line: Callable[[str], str]) -> str:
    current = board.item.place.turn.id if board.item else None
    rows = "".join(_row(place, current, board.others.get(place.turn.id), line) for place in board.places)
    waiting = f"{board.waiting:,} waiting" if board.waiting else "Nothing is waiting"
    return f"<h2>{waiting}</h2><ol>{rows}</ol>"


def _row(place: Place, current: str | None, other: str | None, line: Callable[[str], str]) -> str:
    tags = "".join(f"<span class='tag'>{html.escape(reason)}</span>" for reason in place.reasons)
    state = " aria-current='true'" if place.turn.id == current else " disabled" if other else ""
    holder = f"<span class='tag other'>with {html.escape(other)}</span>" if other else ""
    return (
        f"<li><button type='button' data-turn='{html.escape(place.turn.id)}'{state}>"
        f"<span class='question'>{html.escape(line(place.turn.messages[-1]['content']))}</span>"
        f"<span class='tags'>{holder}{tags}</span></button></li>"
    )


def _about(place: Place) -> str:
    """Why it is here, who wrote it, and the conversation up to the question."""
    turn = place.turn
    reasons = "".join(f"<span class='tag'>{html.escape(reason)}</span>" for reason in place.reasons)
    source = "" if turn.source == "chat" else f" · imported from {html.escape(turn.source)}"
    return (
        f"<div id='shown' data-turn='{html.escape(turn.id)}' data-answer='{html.escape(turn.answer)}'>"
        f"<p class='where'><span class='tags'>{reasons}</span>"
        f"<span>version <code>{html.escape(turn.version)}</code> · {_day(turn.at)}{source}</span></p>"
        f"{_earlier(turn)}<p class='asked'>{html.escape(turn.messages[-1]['content'])}</p></div>"
    )


def _earlier(turn: Turn) -> str:
    earlier = turn.messages[:-1]
    if not earlier:
        return ""
    names = {"user": "Question", "assistant": "Answer", "system": "System"}
    said = "".join(
        f"<dt>{names[message['role']]}</dt><dd>{html.escape(message['content'])}</dd>" for message in earlier
    )
    count = f"{len(earlier)} earlier message{'s' if len(earlier) > 1 else ''}"
    return f"<details><summary>{count}</summary><dl>{said}</dl></details>"


def _said(place: Place) -> str:
    waiting = {signal.id for signal in place.corrections}
    lines = "".join(f"<li>{_line(signal, signal.id in waiting)}</li>" for signal in place.said)
    return f"<h2>What users said</h2><ul>{lines}</ul>" if lines else ""


def _line(signal: Signal, waiting: bool) -> str:
    value = signal.value
    if signal.kind == "rating":
        thumb = "Rated up" if value["rating"] == 1 else "Rated down"
        reasons = ", ".join(value["reasons"])
        return html.escape(f"{thumb}: {reasons}" if reasons else thumb)
    if signal.kind == "comment":
        return f"Commented: <q>{html.escape(value['text'])}</q>"
    if signal.kind == "correction":
        state = "" if waiting else " (reviewed before)"
        return f"Corrected it{state}: <q>{html.escape(value['text'])}</q>"
    preferred = {"tie": "Found it as good as", 0: "Preferred it to"}.get(value["choice"])
    other = value["alternatives"][0 if preferred else value["choice"] - 1]
    return f"{preferred or 'Preferred to it'}: <q>{html.escape(other)}</q>"


def _fates_of(fates: Sequence[Fate], line: Callable[[str], str]) -> str:
    if not fates:
        return ""
    rows = "".join(
        f"<li><span class='question'>{html.escape(line(fate.question))}</span>"
        f"<span class='fate{' serves' if fate.serves else ''}'>{html.escape(fate.became)}</span></li>"
        for fate in fates
    )
    return f"<details><summary>What became of my corrections</summary><ul>{rows}</ul></details>"


def _day(at: datetime) -> str:
    return f"{at.day} {at:%B %Y}"
