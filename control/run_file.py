"""How the command line finds a server that runs on the same data folder: a small file with its API's address."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from control.secret_files import write_private

NAME = "run.json"


@dataclass(frozen=True, slots=True)
class RunFile:
    """What a running server says of itself."""

    pid: int
    api: str
    """Base URL of its API, reachable from this machine; empty where the API is switched off."""


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
