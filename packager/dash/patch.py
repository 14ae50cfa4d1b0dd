"""MPD patches (ISO/IEC 23009-1 5.15; RFC 5261): from an MPD that a player has to the newest one, in a few lines.

Works on two texts that `packager.dash.mpd` has written, and on nothing else. What may differ between them is attributes
in `_VOLATILE`, the entries of the SegmentTimelines, Periods that are gone and Periods that came; where anything else
does, there is no patch (`inapplicable`), and the player asks for the whole MPD.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from packager.hls.text import instant

_NAMESPACE = "urn:mpeg:dash:schema:mpd-patch:2020"
_VOLATILE = "publishTime|timeShiftBufferDepth|maxSegmentDuration|bandwidth|startNumber"
_ATTRIBUTE = re.compile(rf' ({_VOLATILE})="([^"]*)"')
_TAG = re.compile(r"<(/?)([A-Za-z]+)((?: [\w:]+=\"[^\"]*\")*)(/?)>")
_TIMELINE = re.compile(r"<SegmentTimeline>(.*?)</SegmentTimeline>", re.DOTALL)
_ENTRY = re.compile(r"<S[^>]*/>")
_ID = re.compile(r' id="([^"]*)"')
_REPEAT = re.compile(r' r="(\d+)"')
_PERIOD = re.compile(r'<Period id="([^"]*)".*?</Period>\n', re.DOTALL)
_LOCATION = re.compile(r"<PatchLocation[^>]*>[^<]*</PatchLocation>")

_Timeline = list[tuple[int, str]]
"""Entries with the numbers of their first segments."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """An MPD taken apart."""

    skeleton: str
    """What must be the same in both."""
    attributes: dict[str, str]
    """By XPath."""
    timelines: dict[str, _Timeline]
    """By XPath."""
    location: str
    """The PatchLocation element."""


def _take_apart(text: str) -> _Snapshot:
    attributes: dict[str, str] = {}
    bodies = _TIMELINE.findall(text)
    bare = _TIMELINE.sub("<SegmentTimeline/>", text)
    timelines: dict[str, _Timeline] = {}
    path: list[str] = []
    number = 0
    for closing, name, rest, empty in _TAG.findall(bare):
        if closing:
            path.pop()
            continue
        ident = _ID.search(rest)
        # In single quotes: Shaka 5.2 reads no others.
        path.append(f"{name}[@id='{ident[1]}']" if ident and name != "MPD" else name)
        here = "/" + "/".join(path)
        for key, value in _ATTRIBUTE.findall(rest):
            attributes[f"{here}/@{key}"] = value
            number = int(value) if key == "startNumber" else number
        if name == "SegmentTimeline":
            timelines[here] = list(_numbered(bodies[len(timelines)], number))
        if empty:
            path.pop()
    location = _LOCATION.search(bare)
    skeleton = _LOCATION.sub("", _ATTRIBUTE.sub("", bare))
    return _Snapshot(skeleton, attributes, timelines, location[0] if location else "")


def _numbered(body: str, number: int) -> Iterator[tuple[int, str]]:
    for entry in _ENTRY.findall(body):
        yield number, entry
        repeat = _REPEAT.search(entry)
        number += 1 + (int(repeat[1]) if repeat else 0)


def patch(old: str, new: str, mpd_id: str) -> bytes | None:
    """The Patch document from one MPD to the other, as UTF-8; None where more differs than a patch tells."""
    had, has = _periods(old), _periods(new)
    stay = [period for period in had if period in has]
    gone, come = list(had)[: len(had) - len(stay)], list(has)[len(stay) :]
    if not stay or [*gone, *stay] != list(had) or [*stay, *come] != list(has):
        return None
    before, after = _take_apart(_without(old, gone)), _take_apart(_without(new, come))
    if before.skeleton != after.skeleton or before.attributes.keys() != after.attributes.keys():
        return None
    time = "/MPD/@publishTime"
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<Patch xmlns="{_NAMESPACE}" mpdId="{mpd_id}"'
        f' originalPublishTime="{before.attributes[time]}" publishTime="{after.attributes[time]}">',
    ]
    lines += [f"<remove sel=\"/MPD/Period[@id='{period}']\"/>" for period in gone]
    for path, value in after.attributes.items():
        if value != before.attributes[path]:
            lines.append(f'<replace sel="{path}">{value}</replace>')
    if after.location != before.location:
        lines.append(f'<replace sel="/MPD/PatchLocation[1]">{after.location}</replace>')
    for path, entries in after.timelines.items():
        lines += _entries(path, before.timelines[path], entries)
    if come:
        added = "".join(has[period] for period in come)
        lines.append(f'<add sel="/MPD/Period[@id=\'{stay[-1]}\']" pos="after">{added}</add>')
    lines += ["</Patch>", ""]
    return "\n".join(lines).encode()


def _periods(text: str) -> dict[str, str]:
    """By id, in order."""
    return {found[1]: found[0] for found in _PERIOD.finditer(text)}


def _without(text: str, periods: Collection[str]) -> str:
    return _PERIOD.sub(lambda found: "" if found[1] in periods else found[0], text) if periods else text


def inapplicable(mpd_id: str, published_us: int) -> bytes:
    """A patch from an MPD that nobody has: the player is to ask for the whole one. dash.js 5 does so at once, Shaka 5.2
    with its next update. An HTTP error would end dash.js, and where a patch is due Shaka does not read an MPD."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Patch xmlns="{_NAMESPACE}" mpdId="{mpd_id}"'
        f' originalPublishTime="{instant(0)}" publishTime="{instant(published_us)}"/>\n'
    ).encode()


def _entries(path: str, old: Sequence[tuple[int, str]], new: Sequence[tuple[int, str]]) -> list[str]:
    """Operations on one SegmentTimeline, in the order in which they are to be done."""
    if old == new:
        return []
    gone = 0
    if old and new and new[0] != old[0]:
        known = {entry: place for place, entry in enumerate(old)}
        meets = known.get(new[1]) if len(new) > 1 else None
        if meets is None:  # no entry is the same in both
            lines = [f'<remove sel="{path}/S[1]"/>'] * len(old)
            return [*lines, _added(path, new)]
        gone = meets - 1
    lines = [f'<remove sel="{path}/S[1]"/>'] * gone
    left = old[gone:]
    same = 0
    if left and new and left[0] != new[0]:
        lines.append(f'<replace sel="{path}/S[1]">{new[0][1]}</replace>')
        same = 1
    while same < min(len(left), len(new)) and left[same] == new[same]:
        same += 1
    # What is not the same any more is at the end: the segment that was in the making.
    lines += [f'<remove sel="{path}/S[{same + 1}]"/>'] * (len(left) - same)
    if new[same:]:
        lines.append(_added(path, new[same:]))
    return lines


def _added(path: str, entries: Sequence[tuple[int, str]]) -> str:
    body = "".join(entry for _, entry in entries)
    return f'<add sel="{path}">{body}</add>'
