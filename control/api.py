"""The API's application: routes, guards, and errors as `{"slug", "text"}`. What they do is in the files `api_*`."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from control.api_auth import NeedsToken, Unauthorized
from control.api_broadcasts import broadcasts_router
from control.api_docs import docs_router
from control.api_edge import edge_router
from control.api_front import Front
from control.api_streams import streams_router
from control.metrics import make_registry, render
from control.operations import Operations
from control.ports import Node
from control.services import Services
from control.settings import Settings
from ingest.whip.endpoint import WhipEndpoint
from ingest.whip.router import whip_router
from media.errors import HeadraceError

log = structlog.get_logger(__name__)

_STATUS = {
    "unknown_stream": 404, "unknown_key_id": 404, "unknown_broadcast": 404, "stream_exists": 409,
    "too_many_keys": 409,
}  # fmt: skip
"""HTTP status by slug; other refusals are 422, overload is 503."""

_PAGE_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src * data:"
)

_ABOUT = (
    "Everything under `/v1` and `/metrics` needs the admin token (file `admin-token` in the data folder) as "
    "`Authorization: Bearer TOKEN`. Times are UTC in ISO 8601, or seconds since 1970; lengths are in seconds (`_s`)."
)


class Problem(BaseModel):
    """Why something was not done."""

    slug: str = Field(description="For programs: does not change from one version to the next.")
    text: str = Field(description="For people: what is wrong, and what to do about it.")


def make_app(services: Services, settings: Settings, node: Node, whip: WhipEndpoint | None = None) -> FastAPI:
    """The application for `api.port`. `whip` has its own way of letting people in: the stream key."""
    app = FastAPI(
        title="Headrace", version=metadata.version("headrace"), description=_ABOUT,
        docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        responses={"default": {"model": Problem, "description": "Not done: 401 (the token), 404, 409, 422, 503."}},
    )  # fmt: skip
    needs_token = NeedsToken(services.data)
    guard = [Depends(needs_token)]
    app.add_middleware(Front, guard=needs_token)
    _add_errors(app)
    app.include_router(docs_router(app.title, "/openapi.json", _PAGE_POLICY))
    app.include_router(_health(node))
    app.include_router(streams_router(Operations(services, settings)), dependencies=guard)
    app.include_router(broadcasts_router(node), dependencies=guard)
    app.include_router(edge_router(node, services.data), dependencies=guard)
    app.include_router(_metrics(services, node), dependencies=guard)
    if whip is not None:
        app.include_router(whip_router(whip))
    page = (Path(__file__).parent / "dashboard.html").read_text()

    @app.get("/", include_in_schema=False)
    async def dashboard() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"})

    return app


def _health(node: Node) -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 while the process answers at all."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"description": "Not ready: `parts` says which part is not."}})
    async def readyz() -> JSONResponse:
        """200 while every part works and publishers are welcome; else 503."""
        parts = dict(node.ready())
        good = all(parts.values())
        return JSONResponse({"status": "ready" if good else "not ready", "parts": parts}, 200 if good else 503)

    return router


def _metrics(services: Services, node: Node) -> APIRouter:
    router = APIRouter(tags=["server"])
    registry = make_registry(services, node)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus metrics of all processes on this machine."""
        return Response(render(registry, await node.metrics()), media_type=CONTENT_TYPE_LATEST)

    return router


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HeadraceError)
    async def refused(_request: Request, error: HeadraceError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
        status = 401 if headers else _STATUS.get(error.slug, {"overload": 503, "server": 500}.get(error.fault, 422))
        return JSONResponse({"slug": error.slug, "text": error.text}, status, headers)

    @app.exception_handler(SQLAlchemyError)
    async def database(_request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("database_failed", error=str(error))
        text = "The database cannot be used now (is the disk full?); streams on air go on. The server's log says more."
        return JSONResponse({"slug": "database_unavailable", "text": text}, 503)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        parts = [f"{_place(item['loc'])}: {item['msg']}" for item in error.errors()]
        return JSONResponse({"slug": "bad_request", "text": "; ".join(parts)}, 422)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        slug = {404: "not_found", 405: "method_not_allowed", 413: "body_too_long"}.get(error.status_code, "bad_request")
        return JSONResponse({"slug": slug, "text": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def bug(_request: Request, _error: Exception) -> JSONResponse:
        text = "This is a fault of the server, which goes on; its log says more."
        return JSONResponse({"slug": "internal_error", "text": text}, 500)


def _place(where: tuple[int | str, ...]) -> str:
    """Where in a request a mistake is: the field, or the body as a whole (a number is its character)."""
    names = [str(part) for part in where[1:]]
    return ".".join(names) if names and not names[0].isdecimal() else "the body"
