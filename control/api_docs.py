"""The API's own documentation at `/docs`: Swagger UI from this package, so that the browser asks nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, Response

_VENDOR = Path(__file__).parent / "vendor"
_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_CACHE = {"Cache-Control": "public, max-age=86400"}


def docs_router(title: str, openapi_url: str, policy: str) -> APIRouter:
    """`/docs` and its files. `policy`: the page's Content-Security-Policy."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> Response:
        page = get_swagger_ui_html(
            openapi_url=openapi_url,
            title=f"{title} API",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="data:,",
            swagger_ui_parameters={"validatorUrl": None},  # a picture from a public service otherwise
        )
        page.headers["Content-Security-Policy"] = policy
        return page

    for name, kind in _FILES.items():
        router.add_api_route(f"/docs/{name}", _sender(_VENDOR / name, kind))
    return router


def _sender(path: Path, kind: str) -> Callable[[], Awaitable[FileResponse]]:
    async def send() -> FileResponse:
        return FileResponse(path, media_type=kind, headers=_CACHE)

    return send
