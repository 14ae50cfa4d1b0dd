"""The HTTP face of WHIP, and the page /publish. Thin: reads requests, asks the endpoint, writes answers.

POST /whip opens a session; its URL /whip/{id} takes PATCH (trickle, ICE restart) and DELETE. GET and HEAD answer 204
(RFC 9725 4.1 wants a 2xx without content), OPTIONS says what is accepted and is the CORS preflight.
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from ingest.ports import PublishRequest
from ingest.whip import headers, sdp, sdpfrag
from ingest.whip.endpoint import WhipEndpoint
from media.addresses import network_of
from media.errors import HeadraceError, Overloaded, ProtocolError, Refused

MAX_BODY_BYTES = 64 * 1024
"""Chromium's offers have 8 kB; one with every codec and candidate stays below 32."""
MAX_KEY_CHARS = 2_048
PAGE = {
    "publish": "text/html; charset=utf-8",
    "publish.js": "text/javascript; charset=utf-8",
    "publish.css": "text/css; charset=utf-8",
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

SessionId = Annotated[str, Path(description="From `Location` of the answer to the offer.")]


def _content(kind: str) -> dict[str, Any]:
    """A body for the API's document."""
    return {kind: {"schema": {"type": "string"}}}


_FRAGMENT = {"requestBody": {"required": True, "content": _content(sdpfrag.CONTENT_TYPE)}}
_OFFER = {"requestBody": {"required": True, "content": _content(headers.SDP)}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    201: {"description": "The SDP answer; `Location` is the session's own URL.", "content": _content(headers.SDP)},
}
_RESTARTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "ICE is restarted.", "content": _content(sdpfrag.CONTENT_TYPE)},
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    "default": {"description": "Refused (RFC 9457), with `slug` too.", "content": {"application/problem+json": {}}},
}


def whip_router(endpoint: WhipEndpoint) -> APIRouter:
    """Routes /whip, /whip/{id} and /publish over this endpoint. Mounted where the API listens; no token needed."""
    router = APIRouter(tags=["whip"], responses=_REFUSED)
    _add_whip(router, endpoint)
    _add_page(router)
    return router


def _add_whip(router: APIRouter, endpoint: WhipEndpoint) -> None:
    @router.post(
        "/whip", summary="Publish over WebRTC (WHIP)", status_code=201, response_class=Response,
        responses=_ANSWER, openapi_extra=_OFFER,
    )  # fmt: skip
    async def publish(request: Request) -> Response:
        """The body is the SDP offer, `Authorization: Bearer` has the stream key (RFC 9725)."""
        try:
            return await _publish(endpoint, request)
        except HeadraceError as error:
            return _refuse(error)

    @router.patch(
        "/whip/{session_id}", summary="Trickle ICE candidates, or restart ICE", status_code=204,
        responses=_RESTARTED, openapi_extra=_FRAGMENT,
    )  # fmt: skip
    async def patch(session_id: SessionId, request: Request) -> Response:
        """With the session's `ETag`, or `*` to restart, in `If-Match`; and the key it began with."""
        try:
            return await _patch(endpoint, session_id, request)
        except HeadraceError as error:
            return _refuse(error)

    @router.delete("/whip/{session_id}", summary="End a WebRTC session", response_class=Response)
    async def delete(session_id: SessionId, request: Request) -> Response:
        """With the key that it began with. The answer has no body."""
        # If-Match is ignored on purpose: simple-whip-client sends it with DELETE.
        try:
            _rate(endpoint, request)
            session = endpoint.find(session_id, _key(request))
        except HeadraceError as error:
            return _refuse(error)
        if session is None:
            return _gone()
        await endpoint.remove(session)
        # Exactly 200: OBS takes anything else for a failure.
        return Response(status_code=200, headers=headers.CORS)

    @router.api_route("/whip", methods=["GET", "HEAD"], include_in_schema=False)
    async def look() -> Response:
        return Response(status_code=204, headers={**headers.CORS, "Accept-Post": headers.SDP})

    @router.api_route("/whip/{session_id}", methods=["GET", "HEAD"], include_in_schema=False)
    async def look_at_session(session_id: str) -> Response:
        if session_id not in endpoint.sessions:
            return _gone()
        return Response(status_code=204, headers=headers.CORS)

    @router.options("/whip", include_in_schema=False)
    async def options() -> Response:
        return Response(status_code=200, headers={**headers.PREFLIGHT, "Accept-Post": headers.SDP})

    @router.options("/whip/{session_id}", include_in_schema=False)
    async def session_options(session_id: str) -> Response:
        accept = {"Accept-Post": headers.SDP, "Accept-Patch": sdpfrag.CONTENT_TYPE}
        return Response(status_code=200, headers={**headers.PREFLIGHT, **accept})

    # RFC 9725 4: every other method is 405. Said here, so that a page's script can read it (CORS).
    @router.api_route("/whip", methods=["PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def not_here() -> Response:
        return _not_allowed("POST, GET, HEAD, OPTIONS", "Publish with POST; the session's own URL is in Location.")

    @router.api_route("/whip/{session_id}", methods=["PUT", "POST"], include_in_schema=False)
    async def not_on_a_session(session_id: str) -> Response:
        return _not_allowed("PATCH, DELETE, GET, HEAD, OPTIONS", "A session takes PATCH and DELETE.")


def _add_page(router: APIRouter) -> None:
    folder = files("ingest.whip") / "page"
    sources = {name: (folder / (name if "." in name else f"{name}.html")).read_bytes() for name in PAGE}
    tags = {name: f'"{hashlib.sha256(body).hexdigest()[:16]}"' for name, body in sources.items()}

    def page(name: str, request: Request) -> Response:
        shared = {**PAGE_HEADERS, "ETag": tags[name], "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=shared)
        return Response(sources[name], media_type=PAGE[name], headers=shared)

    @router.api_route("/publish", methods=["GET", "HEAD"], include_in_schema=False)
    async def publish_page(request: Request) -> Response:
        return page("publish", request)

    @router.api_route("/publish/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def publish_asset(name: str, request: Request) -> Response:
        if "." not in name or name not in PAGE:
            return Response(status_code=404)
        return page(name, request)


async def _publish(endpoint: WhipEndpoint, request: Request) -> Response:
    _rate(endpoint, request)
    if headers.media_type(request.headers.get("content-type")) != headers.SDP:
        return _problem(415, "wrong_content_type", f"Send the offer as {headers.SDP}.")
    key = _key(request)
    offer = sdp.parse_offer(await _body(endpoint, request))
    address, port = request.client if request.client is not None else ("", 0)
    wanted = PublishRequest(
        protocol="whip",
        key=key,
        address=address,
        port=port,
        agent=request.headers.get("user-agent", "")[:200],
        parameters=dict(request.query_params),
    )
    session, answer = await endpoint.publish(offer, wanted)
    base = request.scope.get("root_path", "").rstrip("/")
    made = {**headers.CORS, **headers.NO_CACHE, "Location": f"{base}/whip/{session.id}", "ETag": session.etag}
    made |= {"Accept-Post": headers.SDP, "Accept-Patch": sdpfrag.CONTENT_TYPE}
    response = Response(answer, status_code=201, headers=made, media_type=headers.SDP)
    for link in headers.links(endpoint.settings.ice_servers):
        response.headers.append("Link", link)
    return response


async def _patch(endpoint: WhipEndpoint, session_id: str, request: Request) -> Response:
    _rate(endpoint, request)
    session = endpoint.find(session_id, _key(request))
    if session is None:
        return _gone()
    if headers.media_type(request.headers.get("content-type")) != sdpfrag.CONTENT_TYPE:
        return _problem(415, "wrong_content_type", f"Send candidates as {sdpfrag.CONTENT_TYPE}.")
    match = headers.if_match(request.headers.get("if-match"), session.etag)
    if match == 428:
        return _problem(428, "no_if_match", "PATCH needs If-Match: the session's ETag, or * to restart ICE.")
    if match == 412:
        return _problem(412, "stale_etag", "The session's ETag has changed: ICE was restarted meanwhile.")
    fragment = sdpfrag.parse(await _body(endpoint, request))
    if session.is_restart(fragment):
        if match != 1:
            return _problem(412, "stale_etag", "These are the credentials of another ICE session.")
        body = await session.restart(fragment)
        made = {**headers.CORS, **headers.NO_CACHE, "ETag": session.etag}
        return Response(body, status_code=200, headers=made, media_type=sdpfrag.CONTENT_TYPE)
    await session.trickle(fragment)
    return Response(status_code=204, headers=headers.CORS)


def _rate(endpoint: WhipEndpoint, request: Request) -> None:
    address = request.client.host if request.client is not None else ""
    if endpoint.rate.take(network_of(address), endpoint.now_us()):
        raise Refused("Too many requests from this address: wait a little.", slug="throttled")


def _key(request: Request) -> str:
    key = headers.bearer(request.headers.get("authorization"))
    if not key:
        raise Refused("Send the stream key as Authorization: Bearer KEY.", slug="no_key")
    if len(key) > MAX_KEY_CHARS:
        raise Refused("This is no stream key.", slug="unknown_key")
    return key


async def _body(endpoint: WhipEndpoint, request: Request) -> str:
    """The body as text, bounded in size and time. Raises ProtocolError."""
    parts = bytearray()
    try:
        async with asyncio.timeout(endpoint.limits.handshake_timeout_s):
            async for chunk in request.stream():
                parts += chunk
                if len(parts) > MAX_BODY_BYTES:
                    raise ProtocolError("The body is too large.", slug="too_large")
    except TimeoutError as error:
        raise ProtocolError("The body did not arrive in time.", slug="timeout") from error
    except ClientDisconnect as error:
        raise ProtocolError("The client went away.", slug="disconnected") from error
    try:
        return parts.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("The body is not UTF-8.", slug="malformed_sdp") from error


_BODY_CODES = {"too_large": 413, "timeout": 408}


def _refuse(error: HeadraceError) -> Response:
    code = _BODY_CODES.get(error.slug) or headers.status(error)
    if code == 500 and not isinstance(error, Overloaded):
        raise error
    return _problem(code, error.slug, error.text)


def _gone() -> Response:
    return _problem(404, "no_session", "There is no such session: it has ended, or the URL is wrong.")


def _not_allowed(allowed: str, text: str) -> Response:
    response = _problem(405, "method_not_allowed", text)
    response.headers["Allow"] = allowed
    return response


def _problem(code: int, slug: str, text: str) -> Response:
    made = {**headers.CORS, **headers.NO_CACHE, **headers.for_status(code, slug)}
    if code == 415:
        made["Accept-Post"] = headers.SDP
    content = dict(headers.problem(code, slug, text))
    return JSONResponse(content, status_code=code, headers=made, media_type="application/problem+json")
