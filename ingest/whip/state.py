"""The states of a WHIP session, and which may follow which.

    NEW ──► CONNECTING ──► LIVE ──► CLOSED
     └───────────┴───────────┘         ▲
                 └─────────────────────┘

NEW: the answer is being made. CONNECTING: it is sent; ICE and DTLS run. LIVE: the transport stands; media may come.
CLOSED: nothing more will happen, the publication is closed.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    NEW = "new"
    CONNECTING = "connecting"
    LIVE = "live"
    CLOSED = "closed"


NEXT: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.CONNECTING, State.CLOSED}),
    State.CONNECTING: frozenset({State.LIVE, State.CLOSED}),
    State.LIVE: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}
"""Every transition that exists."""


def follow(old: State, new: State) -> State:
    """`new`, if it may follow `old`. A wrong one is a bug of ours."""
    assert new in NEXT[old], f"{old} -> {new}"
    return new
