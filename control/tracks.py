"""The tracks of one publishing session: which there are, what they are called, and which of them are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from control.languages import UNKNOWN, display_name, shortest
from media.track import Kind, Track

FIRST_AUDIO_ID = 100


class Tracks:
    """Every track that came, by id. A track whose configuration changed replaces the one before."""

    def __init__(self) -> None:
        self._known: dict[int, Track] = {}
        self.alone = False
        """The publisher's video tracks are not aligned: only its default one is used."""

    def __len__(self) -> int:
        return len(self._known)

    def get(self, track_id: int) -> Track | None:
        """The track as it came last."""
        return self._known.get(track_id)

    def put(self, track: Track) -> None:
        """Take a track that is new, or configured anew."""
        self._known[track.id] = track

    @property
    def kinds(self) -> set[Kind]:
        """What there is at all."""
        return {track.kind for track in self._known.values()}

    @property
    def video(self) -> tuple[Track, ...]:
        """Video tracks that may be shown, the default one first."""
        found = self._of(Kind.VIDEO)
        return found[:1] if self.alone else found

    @property
    def audio(self) -> tuple[Track, ...]:
        """Audio tracks, the default one first."""
        return self._of(Kind.AUDIO)

    def _of(self, kind: Kind) -> tuple[Track, ...]:
        return tuple(sorted((t for t in self._known.values() if t.kind is kind), key=lambda t: t.id))


def named(audio: Sequence[Track], overrides: Sequence[str] = ()) -> tuple[Track, ...]:
    """The audio tracks with the languages and names that viewers see: every name once (RFC 8216bis 4.4.6.1.1).

    `overrides`: `LANGUAGE:NAME` for each track in the order of their ids (either part may be empty).
    """
    labelled: list[Track] = []
    taken: set[str] = set()
    for track in audio:
        place = track.id - FIRST_AUDIO_ID
        said = overrides[place] if 0 <= place < len(overrides) else ""
        language, _, name = (part.strip() for part in said.partition(":"))
        language = shortest(language or track.language or UNKNOWN)
        name = name or track.name or display_name(language)
        if not name and len(audio) > 1:
            name = f"Audio {place + 1}"
        unique, number = name, 2
        while unique and unique in taken:
            unique, number = f"{name} {number}", number + 1
        taken.add(unique)
        labelled.append(replace(track, language=language, name=unique))
    return tuple(labelled)


def describe(track: Track) -> dict[str, Any]:
    """The track for API and dashboard."""
    if track.kind is Kind.VIDEO:
        rate = float(track.frame_rate) if track.frame_rate else None
        return {"codec": track.codec.value, "width": track.width, "height": track.height, "frame_rate": rate}
    told = {"codec": track.codec.value, "sample_rate": track.sample_rate, "channels": track.channels}
    return told | {"language": track.language, "name": track.name}
