"""Ladders that do not exist: told at the start and by `headrace check`, not to the first publisher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from control.planning import ladder_of
from control.snapshot import StreamRecord
from control.stream_settings import StreamSettings
from media.errors import Refused
from transcode.ladder import Ladder
from transcode.settings import TranscodeSettings


def server_ladder(server: TranscodeSettings) -> Ladder:
    """The server's own ladder. Raises `Refused` (`unknown_ladder`) that names the setting."""
    try:
        return ladder_of(StreamSettings(), server)
    except Refused as error:
        raise Refused(f"transcode.ladder: {error.text}", slug=error.slug) from error


def unknown_ladders(streams: Iterable[StreamRecord], server: TranscodeSettings) -> Iterator[tuple[str, Refused]]:
    """Streams (by name) whose ladder has gone from the settings since it was set, and why each would be refused."""
    for stream in streams:
        try:
            ladder_of(stream.settings, server)
        except Refused as error:
            yield stream.name, error
