"""Which ladder a stream gets: its own setting, else the server's; joined with the hardware into a planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from control.distributor import Planner
from control.stream_settings import StreamSettings
from control.tracks import named
from media.errors import Refused
from media.track import Codec, Track
from transcode.hardware import Hardware
from transcode.ladder import Ladder, Rung, ladders
from transcode.plan import Plan, make_plan
from transcode.settings import TranscodeSettings


def ladder_of(stream: StreamSettings, server: TranscodeSettings) -> Ladder:
    """The ladder of a stream. Its setting may name a ladder (`mobile`, or one of the server's own), or rungs of the
    server's ladder (`720p,480p`); rungs that it lacks are looked for in the others.

    Raises `Refused` (`unknown_ladder`) for a name that is neither.
    """
    known = ladders(server.ladders)
    names = stream.ladder
    if names is None:
        names = (server.ladder,)
    if len(names) == 1 and names[0] in known:
        return known[names[0]]
    base = known.get(server.ladder) or known["default"]
    rungs: dict[str, Rung] = {}
    for ladder in (base, *known.values()):
        for rung in ladder.rungs:
            if rung.codec in (Codec.H264, base.source_codec):
                rungs.setdefault(f"{rung.height}p", rung)
    unknown = [name for name in names if name not in rungs]
    if unknown:
        raise Refused(
            f"There is no ladder or rung called {', '.join(unknown)}: ladders are {', '.join(known)}; rungs are "
            f"{', '.join(rungs)}.",
            slug="unknown_ladder",
        )
    return replace(base, name=",".join(names) or "none", rungs=tuple(rungs[name] for name in names))


class Planning:
    """Makes planners. `hardware` is None until probing has finished; CPU encoders serve until then."""

    def __init__(self, settings: TranscodeSettings) -> None:
        self._settings = settings
        self.hardware: Hardware | None = None

    def planner(self, stream: StreamSettings) -> Planner:
        """The planner of one broadcast. Raises `Refused` where the stream's ladder does not exist."""
        ladder = ladder_of(stream, self._settings)

        def plan(video: Sequence[Track], audio: Sequence[Track], passthrough: bool) -> Plan:
            sound = named(audio, stream.audio_tracks)
            return make_plan(
                video[0] if video else None,
                sound[0] if sound else None,
                ladder,
                passthrough=passthrough,
                hardware=self.hardware,
                settings=self._settings,
                more_video=video[1:],
                more_audio=sound[1:],
            )

        return plan
