"""Which ladder a stream gets: its own setting, else the server's; joined with the hardware into a planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from control.distributor import Planner
from control.stream_settings import StreamSettings
from control.tracks import named
from media.errors import Refused
from media.track import Track
from transcode.hardware import Hardware
from transcode.ladder import PRESETS, Ladder
from transcode.plan import Plan, make_plan
from transcode.settings import TranscodeSettings


def ladder_of(stream: StreamSettings, server: TranscodeSettings) -> Ladder:
    """The ladder of a stream. Its setting may name a preset (`mobile`) or rungs (`720p,480p`) of the default one.

    Raises `Refused` (`unknown_ladder`) for a name that is neither.
    """
    names = stream.ladder
    if names is None:
        names = (server.ladder,)
    if len(names) == 1 and names[0] in PRESETS:
        return PRESETS[names[0]]
    default = PRESETS["default"]
    rungs = {f"{rung.height}p": rung for rung in default.rungs}
    unknown = [name for name in names if name not in rungs]
    if unknown:
        raise Refused(
            f"There is no ladder or rung called {', '.join(unknown)}: ladders are {', '.join(PRESETS)}; rungs are "
            f"{', '.join(rungs)}.",
            slug="unknown_ladder",
        )
    return replace(default, name=",".join(names) or "none", rungs=tuple(rungs[name] for name in names))


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
