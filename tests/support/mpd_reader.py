"""A reader of our own that follows every version of an MPD: what a Period offers stays as it is through all of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from packager import render
from packager.presentation import Presentation

NS = {"d": "urn:mpeg:dash:schema:mpd:2011"}
CONTINUITY = "urn:mpeg:dash:period-continuity:2015"


class Reader:
    """Keeps what each Period said first, and compares."""

    def __init__(self, shown: Presentation) -> None:
        self.shown = shown
        self.offers: dict[str, dict[str, str]] = {}
        """Period → representation → CMAF header."""
        self.starts: dict[str, str] = {}
        self.times: dict[tuple[str, int], tuple[str, int]] = {}
        """(representation, number) → (Period, start in ticks)."""
        self.foretold: set[tuple[str, int]] = set()
        """What was told before it came; where a break comes between, it never does."""
        self.newest: ET.Element | None = None
        self.version = -1

    def look(self) -> None:
        if self.shown.version == self.version or not self.shown.ready:
            return
        self.version = self.shown.version
        root = self.newest = ET.fromstring(render.mpd(self.shown))
        ids = [period.attrib["id"] for period in root.iterfind("d:Period", NS)]
        assert len(ids) == len(set(ids))
        for place, period in enumerate(root.iterfind("d:Period", NS)):
            self._period(period, oldest=place == 0, newest=place == len(ids) - 1)

    def _period(self, period: ET.Element, *, oldest: bool, newest: bool) -> None:
        name = period.attrib["id"]
        if not self.shown.ended:
            assert self.starts.setdefault(name, period.attrib["start"]) == period.attrib["start"]
        found = {}
        for part in period.iterfind("d:AdaptationSet/d:Representation", NS):
            template = part.find("d:SegmentTemplate", NS)
            assert template is not None
            found[part.attrib["id"]] = template.attrib["initialization"]
            if self.shown.sleeps(part.attrib["id"]):  # told like those that are awake
                self.foretold.add((part.attrib["id"], int(template.attrib["startNumber"])))
                found[part.attrib["id"]] = self.offers.get(name, found)[part.attrib["id"]]
            else:
                self._timeline(name, part.attrib["id"], template)
        first = self.offers.setdefault(name, found)
        # Of the oldest Period a rendition may have left the window; at the end one that was foretold may be missing;
        # nothing ever comes to any.
        assert found.items() <= first.items(), (name, found, first)
        gone = {n for n in first.keys() - found.keys() if self._left(n, int(name[1:]))}
        assert oldest or self.shown.ended or found.keys() | gone == first.keys(), (name, found, first)

    def _left(self, rendition: str, msn: int) -> bool:
        """Whether a rendition that slept lists nothing so old any more."""
        shown = self.shown.listed[rendition].shown
        return not shown or shown[0].msn > msn

    def _timeline(self, period: str, representation: str, template: ET.Element) -> None:
        number, time = int(template.attrib["startNumber"]), 0
        entries = template.findall("d:SegmentTimeline/d:S", NS)
        assert entries
        for entry in entries:
            time = int(entry.get("t", time))
            for _ in range(int(entry.get("r", 0)) + 1):
                key = representation, number
                shelf = self.shown.shelves[representation]
                segment = shelf.segment(number)
                if segment is None or not (segment.parts or segment.complete):
                    # Of a rendition that is late, where a Period begins: it is foretold.
                    assert number == int(template.attrib["startNumber"]), key
                    assert number > self.shown.windows[representation].last_part[0], key
                    assert self.times.get(key, (period, time))[0] == period, key
                    self.foretold.add(key)
                else:
                    assert not segment.gap or key in self.foretold, key
                    said = self.times.setdefault(key, (period, time))
                    assert said == (period, time), (key, said, period, time)
                number, time = number + 1, time + int(entry.attrib["d"])

    def continuous(self) -> list[tuple[str, str]]:
        """(Period, the one before) wherever an AdaptationSet goes on."""
        assert self.newest is not None
        return [
            (period.attrib["id"], said.attrib["value"])
            for period in self.newest.iterfind("d:Period", NS)
            for said in period.iterfind(f"d:AdaptationSet/d:SupplementalProperty[@schemeIdUri='{CONTINUITY}']", NS)
        ]
