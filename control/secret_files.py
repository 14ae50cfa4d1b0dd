"""Secrets that live in the data folder as files that only their owner may read."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from control.credentials import new_admin_token
from media.errors import HeadraceError

SERVER_SECRET = "secret"
ADMIN_TOKEN = "admin-token"
WORKER_TOKEN = "worker-token"
SECRET_BYTES = 32


class SecretUnreadable(HeadraceError):
    """A file with a secret is not there, or not for us."""

    default_slug = "secret_unreadable"


def server_secret(data: Path) -> bytes:
    """The server's secret, made at the first start: signing keys and SRT passphrases are derived from it. Raises
    `SecretUnreadable`, as the two below."""
    path = data / SERVER_SECRET
    try:
        found = bytes.fromhex(_read_or_make(path, secrets.token_hex(SECRET_BYTES)))
    except ValueError:
        found = b""
    if len(found) < SECRET_BYTES:
        raise SecretUnreadable(
            f"The secret {path} is not whole: restore it from a copy. Without it move it away, and a new one is made; "
            "all signing keys and SRT passphrases are void then."
        )
    return found


def admin_token(data: Path) -> str:
    """The admin token of the API, made at the first start."""
    return _read_or_make(data / ADMIN_TOKEN, new_admin_token())


def worker_token(data: Path) -> str:
    """What a transcode worker of another machine must know, made at the first start that lets them in."""
    return _read_or_make(data / WORKER_TOKEN, new_admin_token())


def read_secret(path: Path | None) -> str:
    """The content of a secret file that the settings name; empty where they name none. Raises `SecretUnreadable`."""
    return "" if path is None else _read(path)


def _read(path: Path) -> str:
    """Never empty: an empty secret is one that everybody knows. Raises `SecretUnreadable`."""
    try:
        found = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretUnreadable(f"The secret {path} cannot be read: {error}.") from error
    if not found:
        raise SecretUnreadable(f"The secret {path} is empty.")
    return found


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read; at no moment is it half written or readable by others."""
    with drafted(path, text):
        pass


@contextlib.contextmanager
def drafted(path: Path, text: str) -> Iterator[None]:
    """The same in two steps: what can fail (`OSError`) fails on entering; the file takes its place when the block has
    ended well."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(draft, text)
        yield
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _read_or_make(path: Path, fresh: str) -> str:
    """The file's content; made atomically where missing, so that two starts at once agree on one value."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        _write(draft, fresh + "\n")
        try:
            os.link(draft, path)  # fails where another start was first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return _read(path)


def _write(draft: Path, text: str) -> None:
    """On the disk when it returns: a file that takes its place before its content does is empty after a power cut."""
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
