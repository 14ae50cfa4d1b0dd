"""Viewer tokens made here: a set of signing keys in a file, rotated with overlap, and tokens signed with the newest."""

from __future__ import annotations

import base64
import ipaddress
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey

from control.secret_files import write_private
from edge.tokens import MAX_NETWORKS
from media.errors import Refused

LATEST_S = 2.0**53
"""Unix seconds that a float holds exactly; NaN and infinities are beyond."""


def _load(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())["keys"]
        return [dict(key) for key in found]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"The file {path} holds no set of keys (JWKS).", slug="bad_token_keys") from error


def rotate(path: Path, overlap_s: float) -> dict[str, Any]:
    """Put a new key first; those before verify for `overlap_s` more seconds. The file is made where there is none."""
    now = time.time()
    ends = int(now + overlap_s)
    old = [key for key in _load(path) if float(key.get("exp", "inf")) > now]
    for key in old:
        key["exp"] = min(ends, int(key.get("exp", ends)))
    made = OctKey.generate_key(256, {"kid": secrets.token_hex(4), "alg": "HS256"}).as_dict(private=True)
    write_private(path, json.dumps({"keys": [made, *old]}, indent=1))
    return {"kid": made["kid"], "old_keys": len(old), "old_keys_end": ends if old else None}


def make(path: Path, playback_id: str, expires_s: float, addresses: Sequence[str]) -> dict[str, Any]:
    """A token for a stream (`*`: for all). Raises `Refused` without a key that signs, and where edges would refuse."""
    if len(addresses) > MAX_NETWORKS:
        raise Refused(f"A token is good for {MAX_NETWORKS} addresses at most.", slug="bad_address")
    for address in addresses:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            raise Refused(f"{address!r} is no IP address or network.", slug="bad_address") from error
    now = time.time()
    key = next((k for k in _load(path) if k.get("kty") == "oct" and float(k.get("exp", "inf")) > now), None)
    if key is None:
        raise Refused(
            f"There is no key for viewer tokens in {path}: make one with `headrace viewer rotate`.", slug="no_token_key"
        )
    ends, jti = int(now + expires_s), secrets.token_hex(8)
    claims: dict[str, Any] = {"sub": playback_id, "iat": round(now, 3), "exp": ends, "jti": jti}
    if addresses:
        claims["ip"] = list(addresses)
    token = jwt.encode({"alg": "HS256", "kid": key["kid"]}, claims, OctKey.import_key(key))
    return {"token": token, "jti": jti, "expires_at": ends}


def read(token: str) -> tuple[str, float | None]:
    """The `jti` and the end of a token that is to be revoked; a text that is no token is taken as a `jti`."""
    if token.count(".") != 2:
        return token, None
    try:
        claims = json.loads(_decode(token.split(".")[1]))
        jti, ends = claims.get("jti"), claims.get("exp")
        str(jti).encode()  # half a surrogate pair is no text
    except (ValueError, AttributeError, RecursionError) as error:
        raise Refused("This is no viewer token.", slug="bad_token") from error
    if not isinstance(jti, str) or not jti:
        raise Refused("The token has no `jti`: revoke its stream's tokens, or rotate the key.", slug="token_unnamed")
    # Whoever revokes a token need not have made it: an end that is no time is none.
    return jti, float(ends) if isinstance(ends, int | float) and abs(ends) < LATEST_S else None


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
