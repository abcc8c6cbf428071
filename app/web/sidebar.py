"""The list of a person's conversations, and what they may do with them."""

import gradio as gr

from app.conversations import MAX_TITLE, Conversations
from app.web.edge import CLICK, Updates, in_words, person_of, shortened
from app.web.mine import PATH

SHOWN = 200  # conversations in the list


class Sidebar:
    """The parts as attributes; the page says what follows when another conversation is opened."""

    def __init__(self, conversations: Conversations):
        self._chats = conversations

    def lay_out(self) -> None:
        """Everything, from top to bottom, inside the open Blocks."""
        with gr.Sidebar(open=False, width=290, elem_id="sidebar"):
            self.new = gr.Button("New chat", size="sm", elem_id="new-chat")
            self.list = gr.Radio([], label="Your chats", elem_id="chats", visible=False)
            with gr.Row(visible=False, elem_id="manage") as self.manage:
                self.rename = gr.Button("Rename", size="sm", elem_id="rename", min_width=80)
                self.delete = gr.Button("Delete", size="sm", elem_id="delete", min_width=80)
            with gr.Column(visible=False, elem_id="naming") as self.naming:
                self.title = gr.Textbox(label="Name of this chat", max_length=MAX_TITLE, elem_id="chat-title")
                with gr.Row():
                    self.save_title = gr.Button("Save name", size="sm", elem_id="save-title", min_width=80)
                    self.keep_title = gr.Button("Cancel", size="sm", elem_id="keep-title", min_width=80)
            with gr.Column(visible=False, elem_id="deleting") as self.deleting:
                gr.HTML("<p>Delete this chat, and all you said about its answers? It cannot be undone.</p>")
                with gr.Row():
                    self.confirm = gr.Button("Delete it", size="sm", elem_id="confirm-delete", min_width=80)
                    self.spare = gr.Button("Keep it", size="sm", elem_id="keep-chat", min_width=80)
            with gr.Accordion("My data", open=False, elem_id="my-data"):
                self.person = gr.HTML(elem_id="person")
                self.delete_all = gr.Button(
                    "Delete all I ever said", size="sm", elem_id="delete-all", min_width=80
                )
                with gr.Column(visible=False, elem_id="deleting-all") as self.deleting_all:
                    gr.HTML(
                        "<p>Delete every chat of yours, and all you said about answers? It cannot be undone. "
                        "What a version has learned from it before is taken out by whoever runs this page: "
                        "name them your number.</p>"
                    )
                    with gr.Row():
                        self.confirm_all = gr.Button(
                            "Delete everything", size="sm", elem_id="confirm-delete-all", min_width=80
                        )
                        self.spare_all = gr.Button("Keep it", size="sm", elem_id="keep-all", min_width=80)

    def connect(self, conversation: gr.State) -> None:
        """Tie the parts that concern nobody else; `conversation` holds the id of the open one."""
        self.rename.click(self._begin_naming, conversation, [self.naming, self.deleting, self.title], **CLICK)
        self.delete.click(_show_second, None, [self.naming, self.deleting], **CLICK)
        self.delete_all.click(_show, None, self.deleting_all, **CLICK)
        self.keep_title.click(_hide, None, self.naming, **CLICK)
        self.spare.click(_hide, None, self.deleting, **CLICK)
        self.spare_all.click(_hide, None, self.deleting_all, **CLICK)
        naming = [conversation, self.title]
        for event in (self.save_title.click, self.title.submit):
            event(self._name, naming, [self.list, self.naming], **CLICK)

    @property
    def parts(self) -> list:
        """What `show` updates."""
        return [self.list, self.manage, self.naming, self.deleting, self.deleting_all, self.person]

    def show(self, conversation: str | None, person: str) -> Updates:
        """The list as it is now, with `conversation` as the open one."""
        return {
            self.list: self._listed(conversation, person),
            self.manage: gr.update(visible=conversation is not None),
            self.naming: gr.update(visible=False),
            self.deleting: gr.update(visible=False),
            self.deleting_all: gr.update(visible=False),
            self.person: (
                f"<p>Your number is <code>{person}</code>. What you agree to have kept is kept under it.</p>"
                f"<p><a href='{PATH}' download>Download my chats</a></p>"
            ),
        }

    def _listed(self, conversation: str | None, person: str) -> dict:
        headings = self._chats.headings(person)[:SHOWN]
        choices = [
            (shortened(heading.title, 44) + ("" if heading.kept else " (not kept)"), heading.conversation)
            for heading in headings
        ]
        known = conversation if conversation in [h.conversation for h in headings] else None
        return gr.update(choices=choices, value=known, visible=bool(choices), interactive=True)

    def _begin_naming(self, conversation: str | None, request: gr.Request) -> tuple:
        headings = self._chats.headings(person_of(request))
        title = next((h.title for h in headings if h.conversation == conversation), "")
        return gr.update(visible=True), gr.update(visible=False), shortened(title, MAX_TITLE)

    def _name(self, conversation: str | None, title: str, request: gr.Request) -> tuple:
        with in_words():
            self._chats.rename(conversation, person_of(request), title)
        return self._listed(conversation, person_of(request)), gr.update(visible=False)


def _show() -> dict:
    return gr.update(visible=True)


def _hide() -> dict:
    return gr.update(visible=False)


def _show_second() -> tuple[dict, dict]:
    return gr.update(visible=False), gr.update(visible=True)
