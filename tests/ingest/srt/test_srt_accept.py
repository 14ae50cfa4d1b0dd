"""Callers who are gone before they are accepted, with a library that plays them: no real one goes at that instant."""

from __future__ import annotations

from typing import Any

from ingest.ports import SrtAdmission
from ingest.settings import LimitSettings, SrtSettings
from ingest.srt.events import Event
from ingest.srt.library import Option, SrtError
from ingest.srt.listener import Listener


class Library:
    """Two callers wait; the first one's socket breaks between `accept` and the first question about it."""

    def __init__(self) -> None:
        self.waiting = [(7, "192.0.2.1", 1000), (8, "192.0.2.2", 1001)]
        self.closed: list[int] = []

    def accept(self, _sock: int) -> tuple[int, str, int] | None:
        return self.waiting.pop(0) if self.waiting else None

    def get_int(self, _sock: int, option: Option) -> int:
        return 200 if option is Option.RCVLATENCY else 0

    def get_text(self, sock: int, _option: Option) -> bytes:
        if sock == 7:
            raise SrtError("broken", 2001)
        return b"key"

    def close(self, sock: int) -> None:
        self.closed.append(sock)

    def add(self, sock: int) -> None:
        """As a poller."""


def test_a_caller_who_is_gone_leaves_no_socket_and_keeps_nobody_waiting() -> None:
    library: Any = Library()
    listener = Listener(library, SrtSettings(), LimitSettings(), lambda *_: SrtAdmission(), lambda _: None)
    for sock, address, port in library.waiting:
        assert listener._hook(sock, address, port, b"key") == 0
    events: list[Event] = []
    listener._accept(1, library, events, 0.0)
    assert library.closed == [7]
    assert [getattr(event, "connection", None) for event in events] == [8]
    listener._expire(events, 1e9)
    assert len(events) == 1, "nobody is called a caller with a wrong passphrase"
