"""The reports of the rounds, behind the same door as the rounds page."""

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from app.operations import Operations
from app.reports import Reports, Voices
from app.web.guards import page_headers, shut
from app.web.round_report import CASES, round_report


def report_router(
    operations: Operations, reports: Reports, enter: Callable[[Request], str | None]
) -> APIRouter:
    """GET /rounds/report/ROUND: its report.html, or where it has none what would stand there today."""
    router = APIRouter()

    @router.get("/rounds/report/{name}")
    def show(request: Request, name: str) -> Response:
        if enter(request) is None:
            return shut(request)
        finished = {report.name for report in reports.all() if report.decided}
        if name not in finished:
            return PlainTextResponse("There is no finished round of this name.", 404, page_headers())
        return HTMLResponse(_written(name) or _now(name), headers=page_headers())

    def _written(name: str) -> str | None:
        file = operations.settings.home / "runs" / name / "report.html"
        return file.read_text("utf-8") if file.exists() else None

    def _now(name: str) -> str:
        """Nothing is kept of it: an erasure may be on its way."""
        objective, voices = operations.objective, Voices.from_json(operations.voices(name))
        found = reports.findings(name, CASES, operations.redactor.redact)
        return round_report(objective.title, objective.gate, found, voices, datetime.now(UTC))

    return router
