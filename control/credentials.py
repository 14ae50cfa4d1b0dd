"""Keys, publish tokens and what is derived from them: pure functions over strings. No storage, no clock.

What starts with      is
`hr_`                 a stream key: 190 random bits, shown once, stored as a SHA-256 hash
`hrs_`                a signing key: derived from the server's secret and its key id, stored nowhere
`hrt_`                a publish token, signed by a signing key, valid for one publication until it expires
`hra_`                the admin token of the API

The prefixes let people tell them apart, and let the log's redaction find them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass

from media.errors import ProtocolError

KEY_LENGTH = 32
"""Characters after the prefix, of 62 kinds each: 190 bits."""

MAX_CREDENTIAL_LENGTH = 512
"""Longer input is no key or token of ours: refused before it is hashed. SRT carries at most 512 anyway."""

_ALPHABET = string.digits + string.ascii_letters
_TOKEN = re.compile(r"hrt_(k[0-9a-z]{8,30})\.([0-9]{1,12})\.([0-9A-Za-z_-]{8,64})\.([0-9A-Za-z_-]{43})")
REDACTED = re.compile(r"hr[ast]?_[0-9A-Za-z_.-]{8,}")


@dataclass(frozen=True, slots=True)
class Token:
    """A publish token taken apart; nothing in it is proven before `token_is_signed`."""

    key_id: str
    expires_s: int
    """Unix time after which it starts no publication any more."""
    nonce: str
    """Accepted once per signing key."""
    signature: str


def _random(length: int, alphabet: str = _ALPHABET) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def new_key() -> str:
    """A fresh stream key."""
    return "hr_" + _random(KEY_LENGTH)


def new_admin_token() -> str:
    """A fresh admin token."""
    return "hra_" + _random(KEY_LENGTH)


def new_key_id() -> str:
    """A fresh key id: public, used in logs and commands."""
    return "k" + _random(11, string.digits + string.ascii_lowercase)


def hash_key(key: str) -> bytes:
    """What is stored of a key: 32 bytes. A plain hash, since a key of 190 random bits cannot be guessed."""
    return hashlib.sha256(b"headrace stream key\0" + key.encode("utf-8", "surrogatepass")).digest()


def srt_passphrase(secret: bytes, key: str) -> str:
    """The SRT passphrase that belongs to a key: 32 characters, derived from the server's secret, stored nowhere."""
    digest = hmac.digest(secret, b"srt passphrase\0" + key.encode("utf-8", "surrogatepass"), "sha256")
    return base64.b32encode(digest)[:32].decode().lower()


def signing_key(secret: bytes, key_id: str) -> str:
    """The key that signs tokens under `key_id`, in the form that is shown to its owner."""
    digest = hmac.digest(secret, b"signing key\0" + key_id.encode(), "sha256")
    return "hrs_" + _unpadded(digest)


def make_token(key_id: str, key: str, *, expires_s: int, nonce: str = "") -> str:
    """A token signed with the signing key `key` (`hrs_...`): HMAC-SHA256 over `KEY_ID.EXPIRES.NONCE`."""
    body = f"{key_id}.{expires_s}.{nonce or _random(22)}"
    return f"hrt_{body}.{_sign(key, body)}"


def parse_token(text: str) -> Token | None:
    """None if `text` is no token at all (then it may be a key); `ProtocolError` for a malformed token."""
    if not text.startswith("hrt_"):
        return None
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise ProtocolError("A publish token reads hrt_KEYID.EXPIRES.NONCE.SIGNATURE.", slug="malformed_token")
    return Token(match[1], int(match[2]), match[3], match[4])


def token_is_signed(token: Token, key: str) -> bool:
    """Whether the signing key `key` made this token. In constant time."""
    body = f"{token.key_id}.{token.expires_s}.{token.nonce}"
    return hmac.compare_digest(_sign(key, body), token.signature)


def _sign(key: str, body: str) -> str:
    return _unpadded(hmac.digest(key.encode(), body.encode(), "sha256"))


def _unpadded(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
