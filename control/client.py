"""One way to the streams and keys of a data folder: through the running server's API, else in the database itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
from sqlalchemy.exc import SQLAlchemyError

from control.database import DatabaseError
from control.operations import Operations
from control.run_file import running
from control.secret_files import admin_token
from control.services import open_services
from control.settings import Settings
from media.errors import HeadraceError, Refused

TIMEOUT_S = 10.0

ROUTES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "add_stream": ("POST", "/v1/streams"),
        "streams": ("GET", "/v1/streams"),
        "stream": ("GET", "/v1/streams/{name}"),
        "change_stream": ("PATCH", "/v1/streams/{name}"),
        "remove_stream": ("DELETE", "/v1/streams/{name}"),
        "keys": ("GET", "/v1/streams/{name}/keys"),
        "add_key": ("POST", "/v1/streams/{name}/keys"),
        "rotate_key": ("POST", "/v1/streams/{name}/keys/rotate"),
        "revoke_key": ("POST", "/v1/keys/{key_id}/revoke"),
        "make_token": ("POST", "/v1/keys/{key_id}/token"),
        "audit": ("GET", "/v1/audit"),
        "reload_edge": ("POST", "/v1/edge/reload"),
        "purge_edge": ("POST", "/v1/edge/purge"),
    }
)
"""The operation's name in `control.operations`, and where the API has it. Other arguments are the body or query."""


_READING = frozenset({"streams", "stream", "keys", "audit"})
"""What changes nothing, and so makes no data folder either."""


RUNNING = frozenset({"reload_edge", "purge_edge"})
"""What is asked of a running server only."""


class ServerUnreachable(HeadraceError):
    """The API of a running server does not answer as it should."""

    default_slug = "server_unreachable"


_NAME = re.compile(r"[A-Za-z0-9_-]+")


def _want_name(what: str, value: str) -> None:
    """What would change the URL that it stands in (`main?x` is `main` there) is nobody's name. Raises `Refused`."""
    if not _NAME.fullmatch(value):
        if what == "key_id":
            raise Refused(f"There is no key with the id {value!r}.", slug="unknown_key_id")
        raise Refused(f"There is no stream called {value!r}.", slug="unknown_stream")


@dataclass(frozen=True, slots=True)
class Client:
    """Runs operations. Synchronous: for the command line."""

    data: Path
    settings: Settings

    def call(self, operation: str, **arguments: Any) -> Any:
        """Run one operation of `control.operations.Operations` and return its answer. Raises `HeadraceError`."""
        if operation in _READING and not self.settings.database.url and not self.data.exists():
            raise Refused(
                f"There is no data folder {self.data.absolute()} yet. `headrace stream add NAME` makes one; that of "
                "another server is named with --data or HEADRACE_DATA.",
                slug="no_data_folder",
            )
        server = running(self.data)
        if server is not None and server.api:
            try:
                return self._remote(server.api, operation, arguments)
            except httpx2.ConnectError:
                pass  # still starting or already leaving; it reads the database every second
            except httpx2.HTTPError as error:
                raise ServerUnreachable(
                    f"The server at {server.api} (process {server.pid}) did not answer: {type(error).__name__}."
                ) from error
        if operation in RUNNING:
            raise Refused(f"No server runs on the data folder {self.data.absolute()}.", slug="no_server")
        return asyncio.run(self._local(operation, arguments))

    def _remote(self, api: str, operation: str, arguments: dict[str, Any]) -> Any:
        method, template = ROUTES[operation]
        inside = set(re.findall(r"{(\w+)}", template))
        for name in inside:
            _want_name(name, arguments[name])
        path = template.format(**{name: arguments[name] for name in inside})
        rest = {k: v for k, v in arguments.items() if k not in inside and (v is not None or method != "GET")}
        headers = {"Authorization": f"Bearer {admin_token(self.data)}"}
        with httpx2.Client(base_url=api, headers=headers, timeout=TIMEOUT_S, trust_env=False) as client:
            if method == "GET":
                answer = client.request(method, path, params=rest)
            else:
                answer = client.request(method, path, json=rest)
        try:
            value = answer.json()
        except ValueError as error:
            raise ServerUnreachable(f"What answers at {api} is not Headrace's API.") from error
        if answer.status_code >= 400:
            raise Refused(str(value.get("text", value)), slug=str(value.get("slug", "refused")))
        return value

    async def _local(self, operation: str, arguments: dict[str, Any]) -> Any:
        try:
            async with open_services(self.data, database_url=self.settings.database.url) as services:
                return await getattr(Operations(services, self.settings), operation)(**arguments)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or type(error).__name__
            raise DatabaseError(f"The database cannot be used now ({cause}): does another process hold it?") from error
