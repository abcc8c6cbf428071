"""The chat page. It shows what the server knows and passes on what a person does; it decides nothing.

No handler takes the transcript from the browser: a question, a click or a text comes in, and everything else
is looked up in `Conversations` under the person of the signed cookie.
"""

import html
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import gradio as gr

from app.conversations import Conversations
from app.transcript import Exchange, Progress
from app.web.edge import CLICK, HIDDEN, UNQUEUED, Updates, in_words, person_of
from app.web.feedback_panel import FeedbackPanel, messages_shown, said_by
from app.web.sidebar import Sidebar
from eval.objective import Objective
from feedback.errors import RatchetError

STATIC = Path(__file__).parent / "static"
STYLES = STATIC / "chat.css"
HEAD = f"<script>{(STATIC / 'results.js').read_text('utf-8')}</script>"
ANSWER_TO_COME = {"role": "assistant", "content": "…"}
PAUSE = 0.08  # seconds between two pictures of an answer that is being written
ANSWERS = HIDDEN | {"concurrency_limit": 64, "concurrency_id": "answers"}
# What a browser remembers of the page; the secret only keeps Gradio from making a new one at each start.
REMEMBERED = {"secret": "what is shown is checked on the server"}


def chat_page(conversations: Conversations, objective: Objective) -> gr.Blocks:
    """The page of one objective; mount it with STYLES and HEAD."""
    with gr.Blocks(title=objective.title, analytics_enabled=False, fill_width=True) as page:
        chat = ChatPage(conversations, objective)
        chat.lay_out()
        chat.connect()
        page.load(chat.enter, [chat.last_open, chat.agreed], chat.everything, **UNQUEUED)
    return page


@dataclass(frozen=True)
class Asked:
    """A question that is on its way."""

    question: str
    consent: bool
    instead_of: str | None  # the turn whose question it replaces
    last: str | None  # the turn that was the last when it was asked


class ChatPage:
    """The parts of the page as attributes, and what happens when one is used."""

    def __init__(self, conversations: Conversations, objective: Objective):
        self._chats = conversations
        self._objective = objective
        self._words = objective.page
        self.sidebar = Sidebar(conversations)
        self.feedback = FeedbackPanel(conversations, objective.page)

    # what there is to see

    def lay_out(self) -> None:
        """Everything, from top to bottom, inside the open Blocks."""
        self.conversation = gr.State(None)  # an id, as is the next; both are checked at each use
        self.replaced = gr.State(None)  # the answer whose question is being edited
        self.asked = gr.State(None)  # Asked, or the id of the answer that gets a second one beside it
        self.last_open = gr.BrowserState(None, storage_key="ratchet-chat", **REMEMBERED)
        self.agreed = gr.BrowserState(False, storage_key="ratchet-consent", **REMEMBERED)
        self.sidebar.lay_out()
        with gr.Column(elem_id="page"):
            gr.HTML(f"<h1>{html.escape(self._objective.title)}</h1>", elem_id="title")
            gr.HTML(f"<p role='note'>{html.escape(self._words.disclaimer)}</p>", elem_id="disclaimer")
            self.red_flag = gr.HTML(visible=False, elem_id="red-flag")
            self._lay_out_chat()
            self.feedback.lay_out()
            self._lay_out_composer()

    def _lay_out_chat(self) -> None:
        self.chatbot = gr.Chatbot(
            elem_id="chat",
            show_label=False,
            container=False,
            height="auto",
            layout="bubble",
            placeholder="Ask a question, or begin with one of these.",
            buttons=["copy"],
            feedback_options=("Like", "Dislike"),
            group_consecutive_messages=False,
            latex_delimiters=[],
            allow_tags=False,
        )
        with gr.Row(elem_id="examples") as self.examples:
            self.example_buttons = [
                gr.Button(text, size="sm", elem_id=f"example-{i}", min_width=220)
                for i, text in enumerate(self._words.examples)
            ]
        with gr.Row(elem_id="under", visible=False) as self.under:
            self.version = gr.HTML(elem_id="version")
            self.edit = gr.Button("Edit my question", size="sm", elem_id="edit", scale=0, min_width=130)
            self.again = gr.Button("Try again", size="sm", elem_id="another", scale=0, min_width=90)

    def _lay_out_composer(self) -> None:
        with gr.Row(elem_id="editing", visible=False) as self.editing:
            gr.HTML("<p>Your edited question takes the place of the one above, and of what followed it.</p>")
            self.leave = gr.Button("Leave it", size="sm", elem_id="leave-edit", scale=0, min_width=90)
        with gr.Row(elem_id="composer"):
            self.question = gr.Textbox(
                show_label=False,
                label="Your question",
                placeholder="Your question",
                container=False,
                lines=1,
                max_lines=8,
                elem_id="question",
                autofocus=True,
                scale=1,
            )
            self.send = gr.Button("Send", variant="primary", elem_id="send", scale=0, min_width=96)
            self.stop = gr.Button(
                "Stop", variant="stop", elem_id="stop", scale=0, min_width=96, visible=False
            )
        self.consent = gr.Checkbox(False, label=self._words.consent, elem_id="consent", container=False)

    @property
    def everything(self) -> list:
        """All that can change."""
        chat = [
            self.conversation,
            self.replaced,
            self.asked,
            self.last_open,
            self.chatbot,
            self.red_flag,
            self.consent,
        ]
        under = [self.examples, self.under, self.version, self.edit, self.again, self.editing]
        composer = [self.question, self.send, self.stop, self.sidebar.new]
        return [*chat, *under, *composer, *self.sidebar.parts, *self.feedback.parts]

    # what happens

    def connect(self) -> None:
        """Tie each part to what it does."""
        everything = self.everything
        about = [self.conversation, self.feedback.turn]
        asking = [self.question, self.consent, self.conversation, self.replaced]
        begun = [
            event(self.ask, asking, everything, **CLICK) for event in (self.send.click, self.question.submit)
        ]
        for button in self.example_buttons:
            begun.append(button.click(self.ask, [button, *asking[1:3]], everything, **CLICK))
        begun.append(self.again.click(self.try_again, about, everything, **CLICK))
        for event in begun:
            # Gradio builds each output of an event anew for every picture: so few as can be while it is written.
            written = [self.chatbot, self.feedback.left, self.feedback.right]
            writing = event.success(self.write, [self.conversation, self.asked], written, **ANSWERS)
            writing.then(self.finish, [self.conversation, self.asked], everything, **CLICK)
        self.stop.click(self.end, [self.conversation], None, **CLICK)
        self.edit.click(self.begin_editing, about, [self.replaced, self.editing, self.question], **CLICK)
        self.leave.click(self.leave_editing, None, [self.replaced, self.editing, self.question], **CLICK)
        self.consent.input(None, self.consent, self.agreed, js="agreed => agreed", **HIDDEN)
        self.sidebar.new.click(self.begin_anew, None, everything, **CLICK)
        self.sidebar.list.input(self.open, [self.sidebar.list], everything, **CLICK)
        self.sidebar.confirm.click(self.delete, [self.conversation], everything, **CLICK)
        self.sidebar.confirm_all.click(self.delete_all, None, everything, **CLICK)
        self.sidebar.connect(self.conversation)
        self.feedback.connect(self.conversation, self.chatbot)

    def enter(self, last_open: str | None, agreed: bool, request: gr.Request) -> Updates:
        """The page as the person left it."""
        person = person_of(request)
        try:
            shown = self._page(last_open, person)
        except RatchetError:  # deleted, forgotten, or not theirs
            shown = self._page(None, person)
        shown.pop(self.question)  # the person may have begun to type
        return shown | {self.consent: True} if agreed else shown

    def open(self, conversation: str, request: gr.Request) -> Updates:
        """Another conversation from the list."""
        with in_words():
            return self._page(conversation, person_of(request))

    def begin_anew(self, request: gr.Request) -> Updates:
        """An empty page; not on offer while an answer is written, which would come into it."""
        return self._page(None, person_of(request))

    def delete(self, conversation: str | None, request: gr.Request) -> Updates:
        with in_words():
            self._chats.delete(conversation, person_of(request))
        gr.Info("The chat is deleted.")
        return self._page(None, person_of(request))

    def delete_all(self, request: gr.Request) -> Updates:
        with in_words():
            self._chats.delete_all(person_of(request))
        gr.Info("All you ever said here is deleted.")
        return self._page(None, person_of(request))

    def ask(
        self,
        question: str,
        consent: bool,
        conversation: str | None,
        instead_of: str | None = None,
        request: gr.Request = None,
    ) -> Updates:
        """Show the question, with an answer to come."""
        person = person_of(request)
        with in_words():
            conversation = conversation or self._chats.open(person)
            exchanges = self._chats.exchanges(conversation, person)
        asked = Asked(question, consent, instead_of, exchanges[-1].turn.id if exchanges else None)
        return {
            self.conversation: conversation,
            self.asked: asked,
            self.chatbot: [*_with_question(asked, exchanges), ANSWER_TO_COME],
            self.question: "",
            **self._writing(True),
            self.examples: gr.update(visible=False),
            self.under: gr.update(visible=False),
            self.editing: gr.update(visible=False),
            self.red_flag: gr.update(visible=False),
            **self.feedback.hide(),
        }

    def try_again(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        """A second answer: beside the first where a choice can be kept, in its place where it cannot."""
        with in_words():
            exchange = self.feedback.exchange(conversation, person_of(request), turn)
        if not exchange.kept:
            return self.ask(exchange.question, False, conversation, turn, request)
        waiting = self.feedback.compare(exchange, Progress("", exchange.turn.version))
        return {self.asked: turn} | waiting | self._writing(True)

    def write(self, conversation: str, asked: "Asked | str", request: gr.Request) -> Iterator[Updates]:
        """The answer as it is written, to the question that was asked or beside the turn that is named."""
        try:
            if isinstance(asked, Asked):
                yield from self._write(conversation, asked, person_of(request))
            else:
                yield from self._write_beside(conversation, asked, person_of(request))
        except RatchetError as error:
            gr.Warning(html.escape(str(error)))

    def _write(self, conversation: str, asked: "Asked", person: str) -> Iterator[Updates]:
        exchanges = self._chats.exchanges(conversation, person)
        shown = _with_question(asked, exchanges)
        answering = self._chats.ask(conversation, person, asked.question, asked.consent, asked.instead_of)
        with closing(answering):
            for progress in _at_intervals(answering):
                answer = said_by("assistant", progress.text) if progress.text else ANSWER_TO_COME
                yield {self.chatbot: [*shown, answer]}

    def _write_beside(self, conversation: str, turn: str, person: str) -> Iterator[Updates]:
        exchange = self.feedback.exchange(conversation, person, turn)
        with closing(self._chats.alternative(conversation, person, turn)) as answering:
            for progress in _at_intervals(answering):
                yield self.feedback.beside(exchange, progress.text)

    def finish(self, conversation: str, asked: "Asked | str", request: gr.Request) -> Updates:
        """The page with what came of it."""
        person = person_of(request)
        with in_words():
            if isinstance(asked, str):
                exchange = self.feedback.exchange(conversation, person, asked)
                second = exchange.alternative
                progress = Progress(
                    second.answer if second else "", "", done=True, exchange=second and exchange
                )
                return self.feedback.compare(exchange, progress) | self._writing(False)
            shown = self._page(conversation, person)
            exchanges = self._chats.exchanges(conversation, person)
        if not exchanges or exchanges[-1].turn.id == asked.last:
            gr.Warning("No answer came of it. Please ask again.")
            return shown | {self.question: asked.question}
        return shown

    def begin_editing(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        """The server's copy of the question, to be asked in another way."""
        with in_words():
            exchange = self.feedback.exchange(conversation, person_of(request), turn)
        return {
            self.replaced: turn,
            self.editing: gr.update(visible=True),
            self.question: exchange.question,
        }

    def leave_editing(self) -> Updates:
        return {self.replaced: None, self.editing: gr.update(visible=False), self.question: ""}

    def end(self, conversation: str | None, request: gr.Request) -> None:
        """Stop the answer that is being written."""
        with in_words():
            self._chats.stop(conversation, person_of(request))

    # the page as the server knows it

    def _writing(self, now: bool) -> Updates:
        """Stop in the place of Send, and no other chat to open, while an answer is written."""
        return {
            self.send: gr.update(visible=not now),
            self.stop: gr.update(visible=now),
            self.sidebar.new: gr.update(interactive=not now),
            self.sidebar.list: gr.update(interactive=not now),
        }

    def _page(self, conversation: str | None, person: str) -> Updates:
        """Everything, with `conversation` open; Refused when it is not the person's."""
        exchanges = self._chats.exchanges(conversation, person) if conversation else []
        last = exchanges[-1] if exchanges else None
        flagged = last is not None and last.turn.red_flag is not None
        return {
            self.conversation: conversation,
            self.replaced: None,
            self.last_open: conversation,
            self.chatbot: self.feedback.picture(conversation, person),
            self.question: "",
            **self._writing(False),
            self.examples: gr.update(visible=not exchanges),
            self.under: gr.update(visible=bool(exchanges)),
            self.edit: gr.update(visible=True),
            self.again: gr.update(visible=not flagged),
            self.editing: gr.update(visible=False),
            self.version: _version_line(exchanges) if last else "",
            self.red_flag: gr.update(visible=flagged, value=_alert(last.turn.answer) if flagged else ""),
            **self.sidebar.show(conversation if exchanges else None, person),
            **(self.feedback.show(conversation, person, last.turn.id) if last else self.feedback.hide()),
        }


def _with_question(asked: Asked, exchanges: list[Exchange]) -> list[dict[str, str]]:
    """The chat with a question in its place, up to its answer."""
    before = takewhile(lambda exchange: exchange.turn.id != asked.instead_of, exchanges)
    return [*(m for exchange in before for m in messages_shown(exchange)), said_by("user", asked.question)]


def _at_intervals(progress: Iterator[Progress]) -> Iterator[Progress]:
    """As many of `progress` as an eye can follow, and always the last."""
    shown = 0.0
    for one in progress:
        if one.done or time.monotonic() - shown >= PAUSE:
            yield one
            shown = time.monotonic()


def _version_line(exchanges: list[Exchange]) -> str:
    models = [exchange.turn.version for exchange in exchanges if exchange.turn.red_flag is None]
    moved = exchanges[-1].turn.red_flag is None and models[-2:-1] not in ([], models[-1:])
    words = "Now answered by version" if moved else "Answered by version"
    return f"<p>{words} <code>{html.escape(exchanges[-1].turn.version)}</code></p>"


def _alert(message: str) -> str:
    return (
        f"<div role='alert'><strong>This may need help right now</strong><p>{html.escape(message)}</p></div>"
    )
