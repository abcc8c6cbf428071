"""The operations of the operations over HTTP, for the commands of the person who owns this home."""

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header
from fastapi.responses import JSONResponse

from app.operations import OPERATIONS, Operations, operate
from feedback.errors import RatchetError


def operations_router(operations: Operations, token: str) -> APIRouter:
    """POST /api/OPERATION with the token of the server file and the arguments as a JSON object."""
    router = APIRouter(prefix="/api")

    @router.post("/{operation}")
    def carry_out(
        operation: str,
        arguments: Annotated[dict[str, Any], Body()],
        authorization: Annotated[str, Header()] = "",
    ) -> JSONResponse:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            return JSONResponse({"error": "not allowed", "kind": "RatchetError"}, 401)
        if operation not in OPERATIONS:
            return JSONResponse(
                {"error": f"there is no operation {operation!r}", "kind": "RatchetError"}, 404
            )
        try:
            return JSONResponse(operate(operations, operation, arguments))
        except RatchetError as error:
            return JSONResponse({"error": str(error), "kind": type(error).__name__}, 409)

    return router
