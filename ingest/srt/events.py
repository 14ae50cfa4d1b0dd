"""What the listener's thread tells the event loop. `connection` is libsrt's socket id, not used again for long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


class Ending(Enum):
    """How a connection ended, as far as libsrt lets us know."""

    GOODBYE = "goodbye"
    """The caller closed while we still heard it."""
    SILENCE = "silence"
    """Nothing was heard for the idle timeout."""
    CLOSED = "closed"
    """We closed it."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A caller passed the handshake. Comes before everything else of this connection."""

    connection: int
    address: str
    port: int
    streamid: bytes
    version: str
    """The caller's libsrt, `1.5.1`; empty where it did not say."""
    latency_ms: int
    """What both sides agreed on: the larger wish."""
    encrypted: bool


@dataclass(frozen=True, slots=True)
class Received:
    """Messages as they came, joined. Neither starts nor ends at a TS packet."""

    connection: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Statistics:
    """One connection over the interval since the last of these (about a second)."""

    connection: int
    rtt_ms: float
    repair_ratio: float
    """Packets that had to be sent again, or rebuilt, or given up, of all that were sent: the loss of the network. A
    network that reorders shows up here too, for what is only late is asked for again."""
    drop_ratio: float
    """Packets given up, of all that were sent: the loss that nothing could mend."""
    retransmitted: int
    """Packets that came again, in time or not."""
    recovered: int
    """Packets rebuilt by forward error correction."""
    dropped: int
    """Packets given up: not there when it was time to play them. This is what viewers see."""
    undecrypted: int
    bitrate_bits: int
    bandwidth_bits: int
    """What libsrt believes the path could carry."""
    buffer_ms: int
    """Media time waiting in the receive buffer."""
    handover_dropped_bytes: int
    """Bytes thrown away because the event loop was late, since the connection began."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The last of this connection."""

    connection: int
    ending: Ending


@dataclass(frozen=True, slots=True)
class Rejected:
    """A caller was turned away during its handshake."""

    address: str
    code: int
    """`reject.Reject`; 0 where the key was good but the handshake failed after it: a wrong or missing passphrase."""


Event: TypeAlias = Connected | Received | Statistics | Disconnected | Rejected
