"""Who may use the API: whoever has the admin token. Checked in constant time, before anything else is looked at."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from control.secret_files import admin_token
from media.errors import Refused

_BEARER = HTTPBearer(auto_error=False, description="The admin token, from `admin-token` in the data folder.")


class Unauthorized(Refused):
    """No admin token, or a wrong one."""

    default_slug = "admin_token_needed"


class NeedsToken:
    """A FastAPI dependency that lets only the holder of the admin token pass."""

    def __init__(self, data: Path) -> None:
        self._token = admin_token(data).encode()

    async def __call__(self, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        """Raises `Unauthorized` for everyone else."""
        self.check(f"Bearer {given.credentials}" if given is not None else "")

    def check(self, authorization: str) -> None:
        """The header `Authorization` of a request. Raises `Unauthorized`."""
        scheme, _, token = authorization.partition(" ")
        known = hmac.compare_digest(token.strip().encode("utf-8", "surrogateescape"), self._token)
        if scheme.lower() != "bearer" or not known:
            raise Unauthorized(
                "This needs the admin token (file `admin-token` in the data folder) as `Authorization: Bearer TOKEN`."
            )
