"""Finds the TS packets in a stream of bytes that may begin, or be broken, anywhere. Knows only the sync byte."""

from __future__ import annotations

PACKET_BYTES = 188
SYNC = 0x47
_PROOF = 3
"""Sync bytes, a packet apart, that make a place credible; two where the data ends before the third."""


class Framer:
    """Holds less than a packet while in step, and a few packets at most while it searches."""

    def __init__(self) -> None:
        self._rest = b""
        self._in_step = False
        self._skipped = 0

    def receive(self, data: bytes) -> list[tuple[int, bytes]]:
        """Runs of whole packets, each with the number of bytes that were skipped in front of it.

        A packet that is followed by something else than a sync byte is damaged, since bytes are missing or too many
        within it: it is skipped too. A packet at the end of the data is believed, so that it need not wait.
        """
        data = self._rest + data if self._rest else data
        runs: list[tuple[int, bytes]] = []
        position, end = 0, len(data)
        while True:
            if not self._in_step:
                found = self._search(data, position)
                self._skipped += found - position
                position = found
                if not self._in_step:
                    break
            heads = data[position::PACKET_BYTES]
            good = len(heads) - len(heads.lstrip(b"\x47"))
            whole = (end - position) // PACKET_BYTES
            broken = good < len(heads)
            count = max(good - 1, 0) if broken else whole
            if count:
                stop = position + count * PACKET_BYTES
                runs.append((self._skipped, data[position:stop]))
                self._skipped = 0
                position = stop
            if not broken:
                break
            self._in_step = False
            self._skipped += 1
            position += 1
        self._rest = data[position:]
        return runs

    def _search(self, data: bytes, position: int) -> int:
        """The next credible place at or after `position`, or the place from where to look once there is more."""
        end = len(data)
        while (position := data.find(b"\x47", position)) >= 0:
            heads = data[position : position + _PROOF * PACKET_BYTES : PACKET_BYTES]
            if len(heads) < 2:
                return position
            if heads == b"\x47" * len(heads):
                self._in_step = True
                return position
            position += 1
        return end

    def flush(self) -> list[tuple[int, bytes]]:
        """At the end of the stream: a last whole packet that was still waiting for another to prove it."""
        rest, self._rest = self._rest, b""
        if len(rest) == PACKET_BYTES and rest[0] == SYNC:
            return [(self._skipped, rest)]
        return []
