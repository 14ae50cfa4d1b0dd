"""One server to a data folder, and how the command line finds it: a lock, and a small file with its API's address."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from control.secret_files import write_private
from media.errors import HeadraceError

NAME = "run.json"
LOCK = "serve.lock"


class AlreadyRunning(HeadraceError):
    """Another server has the data folder."""

    default_slug = "already_running"


@dataclass(frozen=True, slots=True)
class RunFile:
    """What a running server says of itself."""

    pid: int
    api: str
    """Base URL of its API, reachable from this machine; empty where the API is switched off."""


@contextlib.contextmanager
def alone(data: Path) -> Iterator[None]:
    """The data folder is ours during the block; the kernel gives it back however the process ends.

    Raises `AlreadyRunning`: two servers would take the run file from each other, and a key revoked at one of them
    would go on at the other.
    """
    with (data / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = running(data)
            who = f" (process {other.pid}{', ' + other.api if other.api else ''})" if other is not None else ""
            raise AlreadyRunning(
                f"A server runs on the data folder {data} already{who}: stop it, or give this one a folder of its own "
                "with --data."
            ) from None
        yield


@contextlib.contextmanager
def announced(data: Path, api: str) -> Iterator[None]:
    """The run file exists during the block."""
    write_private(data / NAME, json.dumps(asdict(RunFile(os.getpid(), api))))
    try:
        yield
    finally:
        (data / NAME).unlink(missing_ok=True)


def running(data: Path) -> RunFile | None:
    """The server that runs on this data folder, or None. A file left by a killed server does not count."""
    try:
        values = json.loads((data / NAME).read_text())
        found = RunFile(int(values["pid"]), str(values["api"]))
        os.kill(found.pid, 0)
    except PermissionError:
        return found  # alive, and someone else's
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def api_address(host: str, port: int) -> str:
    """The base URL of an API that listens on `host`, as seen from this machine."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"
