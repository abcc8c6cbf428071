"""What a person can say about an answer: a thumb and why, a better answer, the better one of two."""

import html
from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from app.conversations import Conversations
from app.transcript import Exchange, Progress
from app.web.display import safe_markdown
from app.web.edge import CLICK, Updates, in_words, person_of, shortened
from eval.objective import Page as Words
from feedback.errors import Refused

THUMB = {1: "Like", -1: "Dislike", 0: None}


class FeedbackPanel:
    """The parts as attributes, and what happens when one is used. It is about one answer at a time."""

    def __init__(self, conversations: Conversations, words: Words):
        self._chats = conversations
        self._words = words

    # what there is to see

    def lay_out(self) -> None:
        """Everything, from top to bottom, inside the open Blocks."""
        self.turn = gr.State(None)  # the answer that it is about; checked at each use
        unkept = "This chat is not kept, so its answers cannot be rated. To help, agree below and start a new chat."
        self.unkept = gr.HTML(f"<p>{unkept}</p>", visible=False, elem_id="not-kept")
        with gr.Column(elem_id="feedback", visible=False) as self.panel:
            self.about = gr.HTML(elem_id="about")
            with gr.Row(elem_id="thumbs"):
                self.up = gr.Button("Good answer", size="sm", elem_id="thumb-up", min_width=120)
                self.down = gr.Button("Poor answer", size="sm", elem_id="thumb-down", min_width=120)
                self.better = gr.Button("Write a better answer", size="sm", elem_id="better", min_width=150)
            self._lay_out_details()
            self._lay_out_editor()
            self._lay_out_comparison()
            self.thanks = gr.HTML(elem_id="thanks")

    def _lay_out_details(self) -> None:
        with gr.Column(visible=False, elem_id="details") as self.details:
            every_reason = [*self._words.reasons_up, *self._words.reasons_down]
            self.reasons = gr.CheckboxGroup(every_reason, label="Why?", elem_id="reasons")
            with gr.Row(elem_id="remark"):
                self.comment = gr.Textbox(
                    label="Anything to add? (optional)",
                    lines=1,
                    max_lines=4,
                    max_length=5000,
                    elem_id="comment",
                    scale=1,
                )
                self.send_comment = gr.Button(
                    "Send", size="sm", elem_id="send-comment", scale=0, min_width=80
                )
            self.take_back = gr.Button("Take rating back", size="sm", elem_id="take-back", scale=0)

    def _lay_out_editor(self) -> None:
        with gr.Column(visible=False, elem_id="editor") as self.editor:
            self.correction = gr.Textbox(
                label="Your better answer", lines=8, max_length=50_000, elem_id="correction"
            )
            with gr.Row():
                self.save = gr.Button(
                    "Save my answer", size="sm", variant="primary", elem_id="save-correction", scale=0
                )
                self.leave = gr.Button("Cancel", size="sm", elem_id="cancel-correction", scale=0)
                self.withdraw = gr.Button(
                    "Take my answer back", size="sm", elem_id="withdraw-correction", scale=0, visible=False
                )

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
                self.choose_left = gr.Button("A is better", size="sm", elem_id="choose-left", min_width=100)
                self.choose_right = gr.Button("B is better", size="sm", elem_id="choose-right", min_width=100)
                self.both_good = gr.Button("Both good", size="sm", elem_id="both-good", min_width=100)
                self.both_bad = gr.Button("Both bad", size="sm", elem_id="both-bad", min_width=100)

    @property
    def parts(self) -> list:
        """What `show` and `hide` update."""
        thumbs = [self.turn, self.panel, self.unkept, self.about, self.up, self.down, self.better]
        details = [self.details, self.reasons, self.comment, self.editor, self.correction, self.withdraw]
        return [*thumbs, *details, self.comparison, self.choices, self.left, self.right, self.thanks]

    # what happens

    def connect(self, conversation: gr.State, chatbot: gr.Chatbot) -> None:
        """Tie each part to what it does; `conversation` holds the id of the open one."""
        ids, rated = [conversation, self.turn], [chatbot, *self.parts]
        self._chatbot = chatbot
        self.up.click(self._rate(1), ids, rated, **CLICK)
        self.down.click(self._rate(-1), ids, rated, **CLICK)
        self.take_back.click(self._rate(0, "Your rating is taken back."), ids, rated, **CLICK)
        chatbot.like(self._rate_shown, [conversation], rated, **CLICK)
        self.reasons.input(self._explain, [*ids, self.reasons], rated, **CLICK)
        for event in (self.send_comment.click, self.comment.submit):
            event(self._add_comment, [*ids, self.comment], rated, **CLICK)
        self.better.click(self._edit, ids, self.parts, **CLICK)
        self.leave.click(lambda: gr.update(visible=False), None, self.editor, **CLICK)
        self.save.click(self._correct, [*ids, self.correction], rated, **CLICK)
        self.withdraw.click(self._take_correction_back, ids, rated, **CLICK)
        self.choose_left.click(self._choose("left"), ids, rated, **CLICK)
        self.choose_right.click(self._choose("right"), ids, rated, **CLICK)
        self.both_good.click(self._choose("good"), ids, rated, **CLICK)
        self.both_bad.click(self._choose("bad"), ids, rated, **CLICK)

    def _rate(self, rating: int, thanks: str = "Thank you for rating this answer.") -> Callable:
        def rate(conversation: str, turn: str, request: gr.Request) -> Updates:
            person = person_of(request)
            with in_words():
                before = self._chats.said(conversation, person, turn).get("rating", {"rating": 0})
                reasons = before["reasons"] if before["rating"] == rating else ()
                self._chats.rate(conversation, person, turn, rating, reasons)
            return self._after(conversation, person, turn, thanks)

        return rate

    def _rate_shown(self, conversation: str, shown: gr.LikeData, request: gr.Request) -> Updates:
        """A thumb beside any answer: the browser says which one and how it reads, the server compares."""
        with in_words():
            turn = self._chats.turn_at(conversation, person_of(request), shown.index, _text_of(shown.value))
        rating = {True: 1, False: -1}.get(shown.liked, 0)
        return self._rate(rating)(conversation, turn, request)

    def _explain(self, conversation: str, turn: str, reasons: Iterable[str], request: gr.Request) -> Updates:
        """Reasons for the rating that stands."""
        person = person_of(request)
        with in_words():
            rating = self._chats.said(conversation, person, turn).get("rating", {}).get("rating", 0)
            self._chats.rate(conversation, person, turn, rating, reasons)
        return self._after(conversation, person, turn, "Thank you, noted.")

    def _add_comment(self, conversation: str, turn: str, text: str, request: gr.Request) -> Updates:
        with in_words():
            self._chats.comment(conversation, person_of(request), turn, text)
        thanks = "Thank you for your comment." if text.strip() else "Your comment is taken back."
        return self._after(conversation, person_of(request), turn, thanks)

    def _edit(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        """Open the editor on the server's copy of the answer, or on what the person wrote before."""
        with in_words():
            exchange = self.exchange(conversation, person_of(request), turn)
            said = self._chats.said(conversation, person_of(request), turn)
        written = said.get("correction", {}).get("text", "")
        return {
            self.editor: gr.update(visible=True),
            self.correction: written or exchange.turn.answer,
            self.withdraw: gr.update(visible=bool(written)),
            self.comparison: gr.update(visible=False),
            self.thanks: "",
        }

    def _correct(self, conversation: str, turn: str, text: str, request: gr.Request) -> Updates:
        with in_words():
            self._chats.correct(conversation, person_of(request), turn, text)
        thanks = "Thank you. A reviewer reads your answer before the model learns from it."
        return self._after(conversation, person_of(request), turn, thanks)

    def _take_correction_back(self, conversation: str, turn: str, request: gr.Request) -> Updates:
        with in_words():
            self._chats.take_correction_back(conversation, person_of(request), turn)
        return self._after(conversation, person_of(request), turn, "Your answer is taken back.")

    def compare(self, exchange: Exchange, progress: Progress) -> Updates:
        """A second answer beside the first, as far as it is; which side is which depends on the turn's id."""
        in_vain = progress.done and progress.exchange is None
        return {
            self.comparison: gr.update(visible=not in_vain),
            self.choices: gr.update(visible=progress.done and not in_vain),
            **self.beside(exchange, progress.text),
            self.editor: gr.update(visible=False),
            self.thanks: "<p>The second answer came to nothing new.</p>" if in_vain else "",
        }

    def beside(self, exchange: Exchange, second: str) -> Updates:
        """Both answers in their places."""
        answers = [safe_markdown(exchange.turn.answer), safe_markdown(second) or "…"]
        left, right = reversed(answers) if _swapped(exchange.turn.id) else answers
        return {self.left: left, self.right: right}

    def _choose(self, said: str) -> Callable:
        def choose(conversation: str, turn: str, request: gr.Request) -> Updates:
            person = person_of(request)
            with in_words():
                if said in ("left", "right"):
                    second = (said == "left") == _swapped(self.exchange(conversation, person, turn).turn.id)
                    stands = self._chats.choose(conversation, person, turn, int(second))
                else:
                    stands = self._chats.choose(conversation, person, turn, "tie", said)
            return self._after(conversation, person, stands.turn.id, "Thank you for comparing the two.")

        return choose

    # the page as the server knows it

    def _after(self, conversation: str, person: str, turn: str, thanks: str) -> Updates:
        return {self._chatbot: self.picture(conversation, person)} | self.show(
            conversation, person, turn, thanks
        )

    def show(self, conversation: str, person: str, turn: str, thanks: str = "") -> Updates:
        """The panel about one answer, with what the person says of it now."""
        exchange = self.exchange(conversation, person, turn)
        said = self._chats.said(conversation, person, turn) if exchange.kept else {}
        rating = said.get("rating", {"rating": 0, "reasons": []})
        offered = {1: self._words.reasons_up, -1: self._words.reasons_down}.get(rating["rating"], ())
        question = html.escape(shortened(exchange.question))
        return self.hide() | {
            self.turn: turn,
            self.panel: gr.update(visible=exchange.kept),
            self.unkept: gr.update(visible=not exchange.kept),
            self.about: f"<p>About the answer to “{question}”</p>",
            self.up: gr.update(variant="primary" if rating["rating"] == 1 else "secondary"),
            self.down: gr.update(variant="primary" if rating["rating"] == -1 else "secondary"),
            self.better: gr.update(visible=exchange.turn.red_flag is None),
            self.details: gr.update(visible=rating["rating"] != 0),
            self.reasons: gr.update(choices=list(offered), value=rating["reasons"], visible=bool(offered)),
            self.comment: said.get("comment", {}).get("text", ""),
            self.thanks: f"<p role='status'>{html.escape(thanks)}</p>" if thanks else "",
        }

    def hide(self) -> Updates:
        """Nothing to say anything about."""
        unseen = (self.panel, self.unkept, self.editor, self.comparison)
        return {part: gr.update(visible=False) for part in unseen} | {self.turn: None}

    def picture(self, conversation: str | None, person: str) -> Any:
        """The transcript and its thumbs as the chat shows them."""
        exchanges = self._chats.exchanges(conversation, person) if conversation else []
        shown = [message for exchange in exchanges for message in messages_shown(exchange)]
        ratings = self._chats.ratings(conversation, person) if conversation else {}
        thumbs = [THUMB[ratings.get(exchange.turn.id, 0)] for exchange in exchanges]
        return gr.update(value=shown, feedback_value=thumbs or None)

    def exchange(self, conversation: str, person: str, turn: str) -> Exchange:
        """The exchange of `turn`; Refused when it was not given in this conversation."""
        for exchange in self._chats.exchanges(conversation, person):
            if exchange.turn.id == turn:
                return exchange
        raise Refused("this answer was not given in this chat; load the page again")


def said_by(role: str, text: str) -> dict[str, str]:
    """A message as the chat shows it."""
    return {"role": role, "content": safe_markdown(text)}


def messages_shown(exchange: Exchange) -> tuple[dict[str, str], dict[str, str]]:
    """Question and answer as the chat shows them."""
    return said_by("user", exchange.question), said_by("assistant", exchange.turn.answer)


def _text_of(content: object) -> str:
    """The text of a message as Gradio's browser side sends it: as it is, or in a list of parts."""
    if isinstance(content, list):
        return "".join(_text_of(part) for part in content)
    if isinstance(content, dict):
        return _text_of(content.get("text"))
    return content if isinstance(content, str) else ""


def _swapped(turn: str) -> bool:
    """Whether the second answer stands on the left: for half of the turns, so that a side wins nothing."""
    return int(turn[-1], 16) % 2 == 1
