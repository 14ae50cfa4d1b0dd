"""A UDP relay that loses, delays and reorders by a seed: the bad network of the tests, as a program of its own.

    python tests/support/lossy_relay.py --to 127.0.0.1:8890 --loss 0.02 --delay-ms 50 --jitter-ms 10 --seed 1

Prints `{"port": N}` and relays until its standard input ends. Lines on standard input are commands, each answered by a
line: `stats` (counters as JSON), `cut` and `heal` (drop everything, as a pulled cable does), `rebind` (each client
appears from another port from now on, as behind a NAT that forgot). Which packets are lost depends on the seed and on
their number in their direction alone, not on time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

QUEUE_MAX = 50_000
"""Packets under way in all; more are lost and counted as overflow."""


@dataclass(frozen=True)
class Weather:
    """What a packet meets. `burst` is the mean length of a run of losses: 1 for independent ones (Gilbert model)."""

    loss: float = 0.0
    burst: float = 1.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    reorder: float = 0.0
    """Part of the packets that are held back by a further `reorder_ms`."""
    reorder_ms: float = 20.0
    duplicate: float = 0.0


@dataclass
class Direction:
    """One way: decides each packet's fate from its own random numbers."""

    weather: Weather
    dice: random.Random
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("seen", "lost", "late", "doubled"), 0))
    _bad: bool = False

    def fate(self) -> list[float]:
        """Delays in seconds of each copy to be sent; empty for a lost packet."""
        weather, dice = self.weather, self.dice
        self.counts["seen"] += 1
        rolls = [dice.random() for _ in range(4)]
        if weather.burst > 1:
            leave = 1 / weather.burst
            enter = leave * weather.loss / (1 - weather.loss)
            self._bad = rolls[0] >= leave if self._bad else rolls[0] < enter
        else:
            self._bad = rolls[0] < weather.loss
        if self._bad:
            self.counts["lost"] += 1
            return []
        delay_ms = max(0.0, weather.delay_ms + (2 * rolls[1] - 1) * weather.jitter_ms)
        if rolls[2] < weather.reorder:
            self.counts["late"] += 1
            delay_ms += weather.reorder_ms
        if rolls[3] < weather.duplicate:
            self.counts["doubled"] += 1
            return [delay_ms / 1000, delay_ms / 1000]
        return [delay_ms / 1000]


class Relay(asyncio.DatagramProtocol):
    """The side that clients see; one `Upstream` for each of them."""

    def __init__(self, to: tuple[str, int], weather: Weather, seed: int) -> None:
        self.to = to
        self.up = Direction(weather, random.Random(f"{seed}-up"))
        self.down = Direction(weather, random.Random(f"{seed}-down"))
        self.cut = False
        self.overflow = 0
        self._under_way = 0
        self._clients: dict[tuple[str, int], Upstream] = {}
        self._retired: list[Upstream] = []

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        upstream = self._clients.get(source)
        if upstream is None:
            upstream = self._clients[source] = Upstream(self, source)
        self.send(self.up, lambda: upstream.send(data))

    def error_received(self, exc: Exception) -> None:
        """A port that nobody listens on (ICMP): what a real network may say too."""

    def send(self, direction: Direction, deliver: Callable[[], None]) -> None:
        if self.cut:
            return
        for delay_s in direction.fate():
            if self._under_way >= QUEUE_MAX:
                self.overflow += 1
                continue
            self._under_way += 1
            asyncio.get_running_loop().call_later(delay_s, self._arrive, deliver)

    def _arrive(self, deliver: Callable[[], None]) -> None:
        self._under_way -= 1
        if not self.cut:
            deliver()

    def rebind(self) -> None:
        self._retired.extend(self._clients.values())  # still open: what comes to the old port is not refused by ICMP
        for client, old in list(self._clients.items()):
            old.deaf = True
            self._clients[client] = Upstream(self, client)

    def stats(self) -> dict[str, object]:
        return {
            "up": self.up.counts,
            "down": self.down.counts,
            "overflow": self.overflow,
            "clients": len(self._clients),
        }


class Upstream(asyncio.DatagramProtocol):
    """One client as the server sees it: a socket with a port of its own."""

    def __init__(self, relay: Relay, client: tuple[str, int]) -> None:
        self.relay = relay
        self.client = client
        self.deaf = False
        self._waiting: list[bytes] = []
        self._transport: asyncio.DatagramTransport | None = None
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(loop.create_datagram_endpoint(lambda: self, remote_addr=relay.to))

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        for data in self._waiting:
            transport.sendto(data)
        self._waiting.clear()

    def send(self, data: bytes) -> None:
        if self._transport is None:
            self._waiting.append(data)
        else:
            self._transport.sendto(data)

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        relay = self.relay
        if not self.deaf:
            relay.send(relay.down, lambda: relay.transport.sendto(data, self.client))

    def error_received(self, exc: Exception) -> None:
        """See `Relay.error_received`."""


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    for name, default in asdict(Weather()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    arguments = parser.parse_args()
    host, _, port = arguments.to.rpartition(":")
    weather = Weather(**{name: getattr(arguments, name) for name in asdict(Weather())})
    loop = asyncio.get_running_loop()
    relay = Relay((host, int(port)), weather, arguments.seed)
    transport, _ = await loop.create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", arguments.port))
    say({"port": transport.get_extra_info("sockname")[1]})
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().strip():
        match line:
            case "cut" | "heal":
                relay.cut = line == "cut"
            case "rebind":
                relay.rebind()
        say(relay.stats())


if __name__ == "__main__":
    asyncio.run(main())
