"""The few lines that a starting server prints for the person in front of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from control.certificates import Certificates
from control.settings import Settings
from control.urls import bracketed, public_host, servers, viewers


@dataclass(frozen=True, slots=True)
class Facts:
    """What the banner tells."""

    push: Sequence[tuple[str, str]] = field(default=())
    """(protocol, server URL): where encoders push to."""
    watch: str = ""
    """Where viewers go, e.g. `http://host:8080/watch/NAME`."""
    api: str = ""
    """The API's base URL; empty where it is off."""
    token_file: Path | None = None
    hardware: str = ""
    """One line, e.g. `NVIDIA GPU (h264_nvenc), CPU (libx264)`."""
    trust: str = ""
    """The command that trusts the local authority; empty with an own certificate."""
    demo: str = ""
    """The demo's page, where it runs."""
    streams: int = 0
    """Streams in the database: without any, the first step is to add one."""
    notes: Sequence[str] = field(default=())
    """What is missing or switched off, a sentence each."""


def facts(
    settings: Settings,
    data: Path,
    *,
    streams: int,
    certificates: Certificates | None = None,
    hardware: str = "",
    demo: str = "",
    notes: Sequence[str] = (),
) -> Facts:
    """The facts that follow from the settings. `demo` is the playback id of the demo's stream, empty without."""
    pages = f"{viewers(settings)}/watch/"
    api_host = settings.api.host if settings.api.host not in ("", "0.0.0.0", "::") else public_host(settings)
    return Facts(
        push=tuple((protocol.upper(), url) for protocol, url in servers(settings).items()),
        watch=f"{pages}NAME" if settings.edge.enabled else "",
        api=f"http://{bracketed(api_host)}:{settings.api.port}" if settings.api.enabled else "",
        token_file=data / "admin-token",
        hardware=hardware,
        trust=certificates.trust_command() if certificates is not None else "",
        demo=f"{pages}{demo}" if demo else "",
        streams=streams,
        notes=tuple(notes),
    )


def lines(facts: Facts) -> list[str]:
    """The banner, line by line."""
    found = ["Headrace is running."]
    for index, (protocol, url) in enumerate(facts.push):
        found.append(f"  {'push to' if index == 0 else '':<10}{protocol:<6}{url}")
    if facts.watch:
        found.append(f"  {'watch':<10}{facts.watch}")
    if facts.api:
        found.append(f"  {'operate':<10}{facts.api}  (API at /docs; the admin token is in {facts.token_file})")
    if facts.hardware:
        found.append(f"  {'encoders':<10}{facts.hardware}")
    if facts.trust:
        found.append(f"  {'RTMPS':<10}once, on each machine that pushes: {facts.trust}")
    found += [f"  {'note':<10}{note}" for note in facts.notes]
    if facts.demo:
        found.append(f"  {'demo':<10}{facts.demo}")
    elif not facts.streams:
        found.append(f"  {'next':<10}headrace stream add NAME   makes a stream and its key")
    return found


def show(facts: Facts, out: TextIO | None = None) -> None:
    """Print the banner at once, on stdout."""
    print("\n".join(lines(facts)), file=out or sys.stdout, flush=True)
