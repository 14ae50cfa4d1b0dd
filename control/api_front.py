"""What stands in front of the API's routes: the admin token before a body is read, a limit on that body, and HEAD.

FastAPI reads and parses a body before it asks its dependencies, so a stranger could have megabytes parsed.
"""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control.api_auth import NeedsToken, Unauthorized

BODY_BYTES = 256 * 1024
"""Several times the largest timed event, as JSON."""


class Front:
    """An ASGI middleware. What is neither under `/v1` nor `/metrics` has its own way of letting people in."""

    def __init__(self, app: ASGIApp, guard: NeedsToken) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path: str = scope["path"]
        if path == "/metrics" or path.startswith("/v1/"):
            headers = Headers(scope=scope)
            try:
                self._guard.check(headers.get("authorization", ""))
            except Unauthorized as error:
                body = {"slug": error.slug, "text": error.text}
                return await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            receive = _limited(receive, headers.get("content-length", ""))
        if scope["method"] == "HEAD" and not path.endswith("/events"):  # RFC 9110, 9.3.2; an event stream has no end
            return await self._app({**scope, "method": "GET"}, receive, _bodiless(send))
        return await self._app(scope, receive, send)


def _limited(receive: Receive, length: str) -> Receive:
    """The same body; `HTTPException` (413) from where it is longer than `BODY_BYTES`, told or not."""
    left = BODY_BYTES

    async def take() -> Message:
        nonlocal left
        if length.isdecimal() and int(length[:12]) > BODY_BYTES:
            raise HTTPException(413, f"The body may have {BODY_BYTES} bytes.")
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"The body may have {BODY_BYTES} bytes.")
        return message

    return take


def _bodiless(send: Send) -> Send:
    async def give(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return give
