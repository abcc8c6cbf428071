"""The chat page. It shows what the server knows and passes on what a person does; it decides nothing.

No handler takes the transcript from the browser: a question, a click or a text comes in, and everything else
is looked up in `Conversations` under the person of the signed cookie.
"""

import html
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from app.conversations import Conversations, Exchange, Progress
from app.web.display import safe_markdown
from eval.objective import Objective
from feedback.errors import RatchetError, Refused

STYLES = Path(__file__).parent / "static" / "chat.css"
PAUSE = 0.08  # seconds between two pictures of an answer that is being written
# "private" hides an event from the list of endpoints only; whoever posts to it is checked like anybody else.
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}
CLICK = HIDDEN | {"queue": False}
ANSWERS = HIDDEN | {"concurrency_limit": 32, "concurrency_id": "answers"}
THUMB = {1: "Like", -1: "Dislike", 0: None}

Updates = dict[Any, Any]  # {component: its new value or properties}


def chat_page(conversations: Conversations, objective: Objective) -> gr.Blocks:
    """The page of one objective; mount it with STYLES."""
    with gr.Blocks(title=objective.title, analytics_enabled=False, fill_width=True) as page:
        chat = ChatPage(conversations, objective)
        chat.lay_out()
        chat.connect()
        page.load(chat.welcome, None, chat.person, **CLICK)
    return page


class ChatPage:
    """The parts of the page as attributes, and what happens when one is used."""

    def __init__(self, conversations: Conversations, objective: Objective):
        self._chats = conversations
        self._objective = objective
        self._words = objective.page

    # what there is to see

    def lay_out(self) -> None:
        """Everything, from top to bottom, inside the open Blocks."""
        self.conversation = gr.State(None)  # an id, as is the next; both are checked at each use
        self.turn = gr.State(None)  # the answer that the feedback row is about
        with gr.Column(elem_id="page"):
            with gr.Row(elem_id="top"):
                gr.HTML(f"<h1>{html.escape(self._objective.title)}</h1>", elem_id="title")
                self.new = gr.Button("New chat", size="sm", elem_id="new-chat", scale=0, min_width=110)
            gr.HTML(f"<p role='note'>{html.escape(self._words.disclaimer)}</p>", elem_id="disclaimer")
            self.red_flag = gr.HTML(visible=False, elem_id="red-flag")
            self._lay_out_chat()
            self._lay_out_feedback()
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
        self.version = gr.HTML(elem_id="version")

    def _lay_out_feedback(self) -> None:
        unkept = "This chat is not kept, so its answers cannot be rated. To help, agree below and start a new chat."
        self.unkept = gr.HTML(f"<p>{unkept}</p>", visible=False, elem_id="not-kept")
        with gr.Column(elem_id="feedback", visible=False) as self.feedback:
            self.about = gr.HTML(elem_id="about")
            with gr.Row(elem_id="thumbs"):
                self.up = gr.Button("Good answer", size="sm", elem_id="thumb-up", min_width=120)
                self.down = gr.Button("Poor answer", size="sm", elem_id="thumb-down", min_width=120)
                self.better = gr.Button("Write a better answer", size="sm", elem_id="better", min_width=150)
                self.another = gr.Button(
                    "Show me another answer", size="sm", elem_id="another", min_width=150
                )
            with gr.Column(visible=False, elem_id="details") as self.details:
                every_reason = [*self._words.reasons_up, *self._words.reasons_down]
                self.reasons = gr.CheckboxGroup(every_reason, label="Why?", elem_id="reasons")
                self.comment = gr.Textbox(
                    label="Anything to add? (optional)", lines=2, max_length=5000, elem_id="comment"
                )
                with gr.Row():
                    self.send_comment = gr.Button("Send comment", size="sm", elem_id="send-comment", scale=0)
                    self.take_back = gr.Button("Take rating back", size="sm", elem_id="take-back", scale=0)
            with gr.Column(visible=False, elem_id="editor") as self.editor:
                self.correction = gr.Textbox(
                    label="Your better answer", lines=8, max_length=50_000, elem_id="correction"
                )
                with gr.Row():
                    self.save = gr.Button(
                        "Save my answer", size="sm", variant="primary", elem_id="save-correction", scale=0
                    )
                    self.leave = gr.Button("Cancel", size="sm", elem_id="cancel-correction", scale=0)
            self._lay_out_comparison()
            self.thanks = gr.HTML(elem_id="thanks")

    def _lay_out_comparison(self) -> None:
        with gr.Column(visible=False, elem_id="comparison") as self.comparison:
            with gr.Row():
                with gr.Column(elem_classes="answer", min_width=260):
                    gr.HTML("<p>A</p>")
                    self.left = gr.Markdown(elem_id="left", latex_delimiters=[])
                with gr.Column(elem_classes="answer", min_width=260):
                    gr.HTML("<p>B</p>")
                    self.right = gr.Markdown(elem_id="right", latex_delimiters=[])
            with gr.Row(visible=False, elem_id="choices") as self.choices:
                self.choose_left = gr.Button("A is better", size="sm", elem_id="choose-left", min_width=110)
                self.choose_tie = gr.Button("Both the same", size="sm", elem_id="choose-tie", min_width=110)
                self.choose_right = gr.Button("B is better", size="sm", elem_id="choose-right", min_width=110)

    def _lay_out_composer(self) -> None:
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
        self.person = gr.HTML(elem_id="person")

    # what happens

    def connect(self) -> None:
        """Tie each part to what it does."""
        ids = [self.conversation, self.turn]
        chat = [
            self.conversation,
            self.chatbot,
            self.question,
            self.send,
            self.stop,
            self.examples,
            self.version,
        ]
        panel = [
            self.turn,
            self.feedback,
            self.unkept,
            self.about,
            self.up,
            self.down,
            self.better,
            self.another,
        ]
        panel += [self.details, self.reasons, self.comment, self.editor, self.correction, self.thanks]
        panel += [self.comparison, self.choices, self.left, self.right]
        page = [*chat, *panel, self.red_flag, self.new]
        asking = [self.question, self.consent, self.conversation]
        self.send.click(self.ask, asking, page, **ANSWERS)
        self.question.submit(self.ask, asking, page, **ANSWERS)
        for button in self.example_buttons:
            button.click(self.ask, [button, self.consent, self.conversation], page, **ANSWERS)
        self.stop.click(self.end, [self.conversation], None, **CLICK)
        self.new.click(self.begin_anew, None, page, **CLICK)

        rated = [self.chatbot, *panel]
        self.up.click(self.rate_up, ids, rated, **CLICK)
        self.down.click(self.rate_down, ids, rated, **CLICK)
        self.take_back.click(self.rate_not, ids, rated, **CLICK)
        self.chatbot.like(self.rate_shown, [self.conversation], rated, **CLICK)
        self.reasons.input(self.explain, [*ids, self.reasons], rated, **CLICK)
        self.send_comment.click(self.add_comment, [*ids, self.comment], rated, **CLICK)
        self.better.click(self.edit, ids, panel, **CLICK)
        self.leave.click(lambda: gr.update(visible=False), None, self.editor, **CLICK)
        self.save.click(self.correct, [*ids, self.correction], rated, **CLICK)
        self.another.click(self.compare, ids, panel, **ANSWERS)
        self.choose_left.click(self.prefer_left, ids, rated, **CLICK)
        self.choose_tie.click(self.prefer_none, ids, rated, **CLICK)
        self.choose_right.click(self.prefer_right, ids, rated, **CLICK)

    def welcome(self, request: gr.Request) -> str:
        """The line that says under which name a person's words are kept."""
        return (
            f"<p>What you agree to have kept is kept under the number <code>{_person(request)}</code>; "
            "name it to whoever runs this page to have it erased.</p>"
        )

    def ask(
        self, question: str, consent: bool, conversation: str | None, request: gr.Request
    ) -> Iterator[Updates]:
        """Answer a question in the sight of the person who asked it."""
        person = _person(request)
        conversation = conversation or self._chats.open(person)
        with _in_words():
            before = self._shown(conversation, person)
            for progress in _at_intervals(self._chats.ask(conversation, person, question, consent)):
                if not progress.done:
                    shown = [*before, _said("user", question), _said("assistant", progress.text or "…")]
                    yield self._while_answering(conversation, shown, progress)
        yield self._when_answered(conversation, person, question, progress)

    def _while_answering(self, conversation: str, shown: list[dict], progress: Progress) -> Updates:
        return {
            self.conversation: conversation,
            self.chatbot: shown,
            self.question: "",
            self.send: gr.update(visible=False),
            self.stop: gr.update(visible=True),
            self.new: gr.update(interactive=False),
            self.examples: gr.update(visible=False),
            self.version: _version_line(progress),
            self.feedback: gr.update(visible=False),
            self.unkept: gr.update(visible=False),
            self.red_flag: gr.update(visible=False),
        }

    def _when_answered(self, conversation: str, person: str, question: str, progress: Progress) -> Updates:
        exchange = progress.exchange
        flagged = exchange is not None and exchange.turn.red_flag is not None
        updates = {
            self.conversation: conversation,
            self.chatbot: self._picture(conversation, person),
            self.question: "" if exchange else question,
            self.send: gr.update(visible=True),
            self.stop: gr.update(visible=False),
            self.new: gr.update(interactive=True),
            self.examples: gr.update(visible=False),
            self.version: _version_line(progress),
            self.red_flag: gr.update(visible=flagged, value=_alert(progress.text) if flagged else ""),
        }
        if exchange is None:
            gr.Warning("No answer came of it. Please ask again.")
            return updates
        return updates | self._panel(conversation, person, exchange.turn.id)

    def end(self, conversation: str | None, request: gr.Request) -> None:
        """Stop the answer that is being written."""
        with _in_words():
            self._chats.stop(conversation, _person(request))

    def begin_anew(self) -> Updates:
        """An empty page; not on offer while an answer is written, which would come into it."""
        return {
            self.conversation: None,
            self.turn: None,
            self.chatbot: gr.update(value=[], feedback_value=None),
            self.question: "",
            self.send: gr.update(visible=True),
            self.stop: gr.update(visible=False),
            self.examples: gr.update(visible=True),
            self.version: "",
            self.feedback: gr.update(visible=False),
            self.unkept: gr.update(visible=False),
            self.red_flag: gr.update(visible=False, value=""),
        }

    # what a person says about an answer

    def rate_up(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        return self._rate(conversation, turn, request, 1)

    def rate_down(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        return self._rate(conversation, turn, request, -1)

    def rate_not(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        return self._rate(conversation, turn, request, 0, thanks="Your rating is taken back.")

    def rate_shown(self, conversation: str, shown: gr.LikeData, request: gr.Request) -> Updates:
        """A thumb beside any answer: the browser says which one and how it reads, the server compares."""
        with _in_words():
            turn = self._chats.turn_at(conversation, _person(request), shown.index, _text_of(shown.value))
        rating = {True: 1, False: -1}.get(shown.liked, 0)
        return self._rate(conversation, turn, request, rating)

    def explain(self, conversation: str, turn: str, reasons: list[str], request: gr.Request) -> Updates:
        """Reasons for the rating that stands."""
        with _in_words():
            rating = self._chats.said(conversation, _person(request), turn).get("rating", {}).get("rating", 0)
        return self._rate(conversation, turn, request, rating, reasons, "Thank you, noted.")

    def _rate(
        self,
        conversation: str,
        turn: str,
        request: gr.Request,
        rating: int,
        reasons: Iterable[str] = (),
        thanks: str = "Thank you for rating this answer.",
    ) -> Updates:
        with _in_words():
            self._chats.rate(conversation, _person(request), turn, rating, reasons)
        return self._after(conversation, request, turn, thanks)

    def add_comment(self, conversation: str, turn: str, text: str, request: gr.Request) -> Updates:
        with _in_words():
            self._chats.comment(conversation, _person(request), turn, text)
        return self._after(conversation, request, turn, "Thank you for your comment.")

    def edit(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        """Open the editor on the server's copy of the answer, or on what the person wrote before."""
        with _in_words():
            exchange = self._exchange(conversation, request, turn)
            said = self._chats.said(conversation, _person(request), turn)
        text = said.get("correction", {}).get("text", exchange.turn.answer)
        return {self.editor: gr.update(visible=True), self.correction: text, self.thanks: ""}

    def correct(self, conversation: str, turn: str, text: str, request: gr.Request) -> Updates:
        with _in_words():
            self._chats.correct(conversation, _person(request), turn, text)
        return self._after(
            conversation,
            request,
            turn,
            "Thank you. A reviewer reads your answer before the model learns from it.",
        )

    def compare(self, conversation: str, turn: str, request: gr.Request) -> Iterator[Updates]:
        """A second answer beside the first; which side is which depends on the turn's id."""
        with _in_words():
            first = self._exchange(conversation, request, turn)
            for progress in _at_intervals(self._chats.alternative(conversation, _person(request), turn)):
                answers = [safe_markdown(first.turn.answer), safe_markdown(progress.text) or "…"]
                left, right = reversed(answers) if _swapped(turn) else answers
                yield {
                    self.comparison: gr.update(visible=True),
                    self.choices: gr.update(visible=progress.done and progress.exchange is not None),
                    self.left: left,
                    self.right: right,
                    self.editor: gr.update(visible=False),
                    self.thanks: "",
                }
        if progress.exchange is None:
            gr.Info("The second answer came to nothing new. You can ask for another one.")
            yield {self.comparison: gr.update(visible=False)}

    def prefer_left(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        return self._choose(conversation, turn, request, 1 if _swapped(turn) else 0)

    def prefer_right(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        return self._choose(conversation, turn, request, 0 if _swapped(turn) else 1)

    def prefer_none(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        return self._choose(conversation, turn, request, "tie")

    def _choose(self, conversation: str, turn: str, request: gr.Request, choice: int | str) -> Updates:
        with _in_words():
            self._chats.choose(conversation, _person(request), turn, choice)
        return self._after(conversation, request, turn, "Thank you for comparing the two.")

    # the page as the server knows it

    def _after(self, conversation: str, request: gr.Request, turn: str, thanks: str) -> Updates:
        person = _person(request)
        picture = {self.chatbot: gr.update(feedback_value=self._thumbs(conversation, person))}
        return picture | self._panel(conversation, person, turn, thanks)

    def _panel(self, conversation: str, person: str, turn: str, thanks: str = "") -> Updates:
        """The feedback row about one answer, with what the person says of it now."""
        exchange = next(e for e in self._chats.exchanges(conversation, person) if e.turn.id == turn)
        said = self._chats.said(conversation, person, turn) if exchange.kept else {}
        rating = said.get("rating", {"rating": 0, "reasons": []})
        offered = {1: self._words.reasons_up, -1: self._words.reasons_down}.get(rating["rating"], ())
        by_model = exchange.turn.red_flag is None
        return {
            self.turn: turn,
            self.feedback: gr.update(visible=exchange.kept),
            self.unkept: gr.update(visible=not exchange.kept),
            self.about: f"<p>About the answer to “{html.escape(_shortened(exchange.question))}”</p>",
            self.up: gr.update(variant="primary" if rating["rating"] == 1 else "secondary"),
            self.down: gr.update(variant="primary" if rating["rating"] == -1 else "secondary"),
            self.better: gr.update(visible=by_model),
            self.another: gr.update(visible=by_model),
            self.details: gr.update(visible=rating["rating"] != 0),
            self.reasons: gr.update(choices=list(offered), value=rating["reasons"], visible=bool(offered)),
            self.comment: said.get("comment", {}).get("text", ""),
            self.editor: gr.update(visible=False),
            self.comparison: gr.update(visible=False),
            self.thanks: f"<p role='status'>{html.escape(thanks)}</p>" if thanks else "",
        }

    def _picture(self, conversation: str, person: str) -> Any:
        shown, thumbs = self._shown(conversation, person), self._thumbs(conversation, person)
        return gr.update(value=shown, feedback_value=thumbs)

    def _shown(self, conversation: str, person: str) -> list[dict[str, str]]:
        """The transcript as the chat shows it."""
        return [
            message
            for exchange in self._chats.exchanges(conversation, person)
            for message in (_said("user", exchange.question), _said("assistant", exchange.turn.answer))
        ]

    def _thumbs(self, conversation: str, person: str) -> list[str | None]:
        return [
            THUMB[self._chats.said(conversation, person, e.turn.id).get("rating", {}).get("rating", 0)]
            if e.kept
            else None
            for e in self._chats.exchanges(conversation, person)
        ]

    def _exchange(self, conversation: str, request: gr.Request, turn: str) -> Exchange:
        exchanges = self._chats.exchanges(conversation, _person(request))
        found = next((exchange for exchange in exchanges if exchange.turn.id == turn), None)
        if found is None:
            raise Refused("this answer was not given in this chat; load the page again")
        return found


def _person(request: gr.Request) -> str:
    return request.request.session["person"]


@contextmanager
def _in_words() -> Iterator[None]:
    """A refusal is shown to the person who caused it; a defect is not."""
    try:
        yield
    except RatchetError as error:
        raise gr.Error(html.escape(str(error)), title="Not done", print_exception=False) from None


def _at_intervals(progress: Iterator[Progress]) -> Iterator[Progress]:
    """As many of `progress` as an eye can follow, and always the last."""
    shown = 0.0
    for one in progress:
        if one.done or time.monotonic() - shown >= PAUSE:
            yield one
            shown = time.monotonic()


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": safe_markdown(text)}


def _version_line(progress: Progress) -> str:
    words = "Now answered by version" if progress.moved else "Answered by version"
    return f"<p>{words} <code>{html.escape(progress.version)}</code></p>"


def _alert(message: str) -> str:
    return (
        f"<div role='alert'><strong>This may need help right now</strong><p>{html.escape(message)}</p></div>"
    )


def _text_of(content: object) -> str:
    """The text of a message as Gradio's browser side sends it: as it is, or in a list of parts."""
    if isinstance(content, list):
        return "".join(_text_of(part) for part in content)
    if isinstance(content, dict):
        return _text_of(content.get("text"))
    return content if isinstance(content, str) else ""


def _shortened(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _swapped(turn: str) -> bool:
    """Whether the second answer stands on the left: for half of the turns, so that a side wins nothing."""
    return int(turn[-1], 16) % 2 == 1
