"""What a person may take with them: all that is kept of their chats, as one file."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.conversations import Conversations

PATH = "/mine.json"


def mine_router(conversations: Conversations) -> APIRouter:
    """GET /mine.json: the chats of whoever the cookie says is asking; an empty list for a newcomer."""
    router = APIRouter()

    @router.get(PATH)
    def mine(request: Request) -> JSONResponse:
        person = request.session.get("person")
        chats = conversations.everything(person) if person else []
        headers = {"Content-Disposition": 'attachment; filename="my-chats.json"', "Cache-Control": "no-store"}
        return JSONResponse({"chats": chats}, headers=headers)

    return router
