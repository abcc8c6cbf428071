"""The rounds page, for the operator: what serves, what runs, what comes, and the levers. It decides nothing.

A lever is used in two steps: the first click says what will happen, the second does it. What is done is
decided and recorded by `Levers`, under the name that the server knows.
"""

import html
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import gradio as gr

from app.levers import LONGEST_REASON, Levers
from app.reports import Report, Reports
from app.run_folder import RunFolder
from app.schedule import Schedule
from app.searches import running, searches
from app.web import rounds_view as view
from app.web.edge import UNQUEUED, Updates
from eval.objective import Objective
from feedback.errors import RatchetError, Refused
from feedback.records import digest
from feedback.satisfaction import signals_per_day

STYLES = tuple(Path(__file__).parent / "static" / name for name in ("plots.css", "rounds.css"))
WHILE_RUNNING_S, OTHERWISE_S = 2, 15  # between two looks
# The field comes a moment after its panel is told to be visible.
TO_THE_REASON = "() => setTimeout(() => document.querySelector('#why :is(input, textarea)')?.focus(), 60)"
DAYS = 30  # of signals
CASES = 4  # wins, and as many losses
ENTRIES = 12  # of the log


def rounds_page(
    levers: Levers, schedule: Schedule, reports: Reports, objective: Objective, queue: Callable[[], int]
) -> gr.Blocks:
    """The page of one objective; `queue` counts what waits for reviewers. Mount it with STYLES and an `enter`."""
    with gr.Blocks(title=f"Rounds · {objective.title}", analytics_enabled=False, fill_width=True) as page:
        rounds = RoundsPage(levers, schedule, reports, objective, queue)
        rounds.lay_out()
        rounds.connect()
        page.load(rounds.welcome, None, [rounds.header, rounds.shown, *rounds.parts.values()], **UNQUEUED)
    return page


class RoundsPage:
    """The parts of the page as attributes, and what happens when one is used."""

    def __init__(
        self,
        levers: Levers,
        schedule: Schedule,
        reports: Reports,
        objective: Objective,
        queue: Callable[[], int],
    ):
        self._levers, self._schedule, self._reports = levers, schedule, reports
        self._operations = levers.operations
        self._objective, self._queue = objective, queue
        self._details: dict[str, str] = {}  # finished rounds, as HTML

    # what there is to see

    def lay_out(self) -> None:
        """Everything, from top to bottom, inside the open Blocks."""
        self.shown = gr.State({})  # {part: digest of what the browser has}
        self.asked = gr.State(None)  # (lever, champion at that time), while one waits to be confirmed
        self.timer = gr.Timer(OTHERWISE_S)
        with gr.Column(elem_id="rounds"):
            self.header = gr.HTML(elem_id="header")
            self.now = gr.HTML(elem_id="now")
            self._lay_out_levers()
            self.live = gr.HTML(elem_id="live")
            with gr.Row(elem_id="plots"):
                with gr.Column(elem_classes="sheet", min_width=320):
                    gr.HTML("<h2>Scores</h2>")
                    self.metric = gr.Radio([], label="Metric", elem_id="metric")
                    self.scores = gr.HTML(elem_id="scores")
                with gr.Column(elem_classes="sheet", min_width=320):
                    gr.HTML("<h2>People</h2>")
                    self.liked = gr.HTML(elem_id="liked")
                    self.signals = gr.HTML(elem_id="signals")
            self.search = gr.HTML(elem_id="search")
            with gr.Row(elem_id="history"):
                with gr.Column(elem_id="list", scale=0, min_width=250):
                    self.round = gr.Radio([], label="Rounds", elem_id="round")
                with gr.Column(min_width=320):
                    self.detail = gr.HTML(elem_id="detail")
            with gr.Column(elem_classes="sheet"):
                gr.HTML("<h2>What was done</h2>")
                self.log = gr.HTML(elem_id="log")

    def _lay_out_levers(self) -> None:
        with gr.Row(elem_id="levers"):
            self.buttons = {
                lever: gr.Button(name, size="sm", elem_id=lever, min_width=110)
                for lever, name in (
                    ("start", "Start a round"),
                    ("cancel", "Cancel the round"),
                    ("promote", "Promote a version"),
                    ("rollback", "Roll back"),
                    ("pause", "Pause the schedule"),
                    ("resume", "Resume the schedule"),
                )
            }
        with gr.Column(visible=False, elem_id="confirm") as self.confirm:
            self.will = gr.HTML(elem_id="will")
            self.version = gr.Radio([], label="Version", elem_id="version")
            self.why = gr.Textbox(
                label="Why? It stands in the log beside your name.",
                elem_id="why",
                max_length=LONGEST_REASON,
            )
            self.problem = gr.HTML(elem_id="problem")
            with gr.Row():
                self.yes = gr.Button("Confirm", size="sm", variant="primary", elem_id="yes", scale=0)
                self.no = gr.Button("Leave it", size="sm", elem_id="no", scale=0)
        self.done = gr.HTML(elem_id="done")

    @property
    def parts(self) -> dict[str, Any]:
        """What a look may change, by name."""
        names = (
            "now",
            "live",
            "scores",
            "liked",
            "signals",
            "search",
            "detail",
            "log",
            "timer",
            "metric",
            "round",
        )
        return {name: getattr(self, name) for name in names} | self.buttons

    # what happens

    def connect(self) -> None:
        """Tie each part to what it does."""
        choices, told = [self.shown, self.metric, self.round], [self.shown, *self.parts.values()]
        panel = [self.asked, self.confirm, self.will, self.version, self.why, self.problem, self.done]
        for lever, button in self.buttons.items():
            opened = button.click(self._asking(lever), None, panel, **UNQUEUED)
            opened.then(None, js=TO_THE_REASON)
        self.no.click(self.leave, None, panel, **UNQUEUED)
        self.yes.click(
            self.use,
            [self.asked, self.version, self.why, *choices],
            [*panel, *told],
            **UNQUEUED,
        )
        for part in (self.timer.tick, self.metric.input, self.round.input):
            part(self.look, choices, told, **UNQUEUED)

    def welcome(self, request: gr.Request) -> Updates:
        """The whole page."""
        header = view.header(self._objective.title, _who(request))
        return {self.header: header} | self.look({}, None, None)

    def look(self, shown: dict[str, str], metric: str | None, chosen: str | None) -> Updates:
        """Whatever has changed since the browser was last told."""
        found = self._look(metric, chosen)
        digests = {name: digest(properties) for name, properties in found.items()}
        changed = {
            self.parts[name]: gr.update(**properties)
            for name, properties in found.items()
            if shown.get(name) != digests[name]
        }
        return {self.shown: digests} | changed

    def leave(self) -> Updates:
        """Close the panel; nothing happens."""
        return self._closed("")

    def use(
        self,
        asked: tuple[str, str] | None,
        version: str | None,
        why: str,
        shown: dict[str, str],
        metric: str | None,
        chosen: str | None,
        request: gr.Request,
    ) -> Updates:
        """Do what was asked for and has now been confirmed."""
        who = _who(request)
        try:
            done = self._use(asked, version, who, why)
        except RatchetError as error:
            return {self.problem: f"<p class='note' role='alert'>{html.escape(str(error))}</p>"}
        return self._closed(done) | self.look(shown, metric, chosen)

    def _use(self, asked: tuple[str, str] | None, version: str | None, who: str, why: str) -> str:
        if asked is None:
            raise Refused("choose what to do first")
        lever, champion = asked
        if lever in ("promote", "rollback") and champion != self._operations.champion():
            raise Refused("another version serves by now; look again before you move the pointer")
        if lever == "promote":
            if not version:
                raise Refused("choose the version that shall serve")
            return f"{self._levers.promote(version, who, why)['champion']} serves now."
        if lever == "rollback":
            return f"{self._levers.rollback(who, why)['champion']} serves again."
        getattr(self._levers, lever)(who, why)
        return {
            "start": "The round begins.",
            "cancel": "The round stops.",
            "pause": "The schedule is paused.",
            "resume": "The schedule runs again.",
        }[lever]

    # the panel

    def _asking(self, lever: str) -> Callable[[], Updates]:
        def ask() -> Updates:
            champion = self._operations.champion()
            others = self._others(champion) if lever == "promote" else []
            return {
                self.asked: (lever, champion),
                self.confirm: gr.update(visible=True),
                self.will: f"<h2>{self.buttons[lever].value}?</h2><p>{html.escape(self._will(lever))}</p>",
                self.version: gr.update(choices=others, value=None, visible=lever == "promote"),
                self.why: "",
                self.problem: "",
                self.done: "",
            }

        return ask

    def _closed(self, done: str) -> Updates:
        return {
            self.asked: None,
            self.confirm: gr.update(visible=False),
            self.done: f"<p role='status'>{html.escape(done)}</p>" if done else "",
        }

    def _will(self, lever: str) -> str:
        """What will happen, in words."""
        served = self._operations.served()
        if lever == "start":
            stopped = RunFolder.unfinished(self._levers.settings.home / "runs")
            if stopped:
                return (
                    f"{stopped.name} goes on where it stopped. The chat goes on meanwhile, somewhat slower."
                )
            return (
                f"What people have said becomes a dataset; a candidate is trained on it and examined against "
                f"{served[-1]}. It serves only if the gate lets it. The chat goes on meanwhile, somewhat slower."
            )
        if lever == "rollback":
            return f"{served[-1]} is withdrawn: {served[-2]} answers from the next question on, in open chats too."
        return {
            "cancel": "The round stops and keeps its last checkpoint. It goes on from there when somebody starts a "
            "round, or at the next regular time.",
            "promote": "The version answers every new chat at once, whatever the gate said of it. Open chats stay "
            f"with theirs for a while. Now {served[-1]} serves.",
            "pause": "No round starts by itself until somebody resumes the schedule. One that runs goes on.",
            "resume": "Rounds start by themselves again, as the objective says.",
        }[lever]

    def _others(self, champion: str) -> list[tuple[str, str]]:
        """The versions that could serve instead, with what became of each, the newest first."""
        became = {report.version: view.outcome(report, False) for report in self._reports.all()}
        return [
            (f"{version} · {became.get(version, 'as it came')}", version)
            for version in reversed(self._reports.versions())
            if version != champion
        ]

    # the page as the server knows it

    def _look(self, metric: str | None, chosen: str | None) -> dict[str, dict[str, Any]]:
        """{part: its properties}."""
        now, store = datetime.now(UTC), self._operations.store
        busy, outlook = self._levers.busy(), self._schedule.outlook(now)
        reports, people = self._reports.all(), self._operations.people()
        newest = reports[0] if reports else None
        searching = running(self._levers.settings.home)
        at_work = busy and not searching and newest and not newest.decided and newest.resumable
        current = newest if at_work else None
        opened = next((report for report in reports if report.name == chosen), newest)
        served = self._operations.served()
        events = self._operations.levers_used()
        html_parts = {
            "now": view.cards(
                view.serving(served[-1], events, people),
                view.searching(searching) if searching else view.running(current, busy, now),
                view.coming(outlook, now, self._queue()),
            )
            + view.complaint(None if busy else self._reports.complaint()),
            "live": view.live(current),
            "liked": view.liked(people, served[-1]),
            "signals": view.signals(signals_per_day(store, now - timedelta(DAYS)), now.date(), DAYS),
            "search": view.search(searches(self._levers.settings.home)),
            "detail": self._detail(opened, opened is current) if opened else "",
            "log": view.log(events[: -ENTRIES - 1 : -1]),
        }
        metrics = self._reports.metrics()
        metric = metric if metric in metrics else metrics[0] if metrics else None
        scores = self._reports.scores(metric) if metric else []
        html_parts["scores"] = view.scores(metric, scores, served)
        labels = [
            (view.label(report, self._objective.gate.primary, report is current), report.name)
            for report in reports
        ]
        paused = self._levers.paused()
        offered = {"start": not busy, "cancel": busy, "promote": len(self._reports.versions()) > 1}
        offered |= {"rollback": len(served) > 1, "pause": not paused, "resume": paused}
        return (
            {name: {"value": value} for name, value in html_parts.items()}
            | {lever: {"visible": visible} for lever, visible in offered.items()}
            | {
                "timer": {"value": WHILE_RUNNING_S if busy else OTHERWISE_S},
                "metric": {
                    "choices": [(name.replace("_", " "), name) for name in metrics],
                    "value": metric,
                    "visible": len(metrics) > 1,
                },
                "round": {"choices": labels, "value": opened and opened.name, "visible": bool(reports)},
            }
        )

    def _detail(self, report: Report, is_running: bool) -> str:
        """One round in full; what is decided does not change any more."""
        if report.decided is None:
            return view.detail(report, self._objective.gate, is_running, None)
        if not self._reports.has_cases(report.name):
            self._details.pop(report.name, None)
            return view.detail(report, self._objective.gate, False, None)
        if report.name not in self._details:
            cases = self._reports.cases(report.name, CASES)
            self._details[report.name] = view.detail(report, self._objective.gate, False, cases)
        return self._details[report.name]


def _who(request: gr.Request) -> str:
    """The name that was signed in with."""
    if not request.username:
        raise gr.Error("sign in first", print_exception=False)
    return request.username
