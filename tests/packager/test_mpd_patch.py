"""MPD patches, applied by a small reader of our own: what comes out is the newest MPD, byte by byte in its meaning."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from packager import render
from packager.presentation import Presentation
from packager.settings import PackagerSettings

MPD = "{urn:mpeg:dash:schema:mpd:2011}"


def target(root: ET.Element, selector: str) -> tuple[ET.Element, ET.Element, str]:
    """(parent, element, attribute or empty) of the absolute paths that we write."""
    steps = re.findall(r"/((?:[^/\[]|\[[^\]]*\])+)", selector)
    assert steps[0] == "MPD"
    parent = element = root
    for step in steps[1:]:
        if step.startswith("@"):
            return parent, element, step[1:]
        name, _, condition = step.partition("[")
        found = element.findall(MPD + name)
        if condition.startswith("@id="):
            found = [e for e in found if e.get("id") == condition[5:-2]]
        elif condition:
            found = [found[int(condition[:-1]) - 1]]
        assert len(found) == 1, selector
        parent, element = element, found[0]
    return parent, element, ""


def apply(root: ET.Element, patch: bytes) -> None:
    for operation in ET.fromstring(patch):
        parent, element, attribute = target(root, operation.attrib["sel"])
        children = [ET.fromstring(ET.tostring(c).replace(b"mpd-patch:2020", b"mpd:2011")) for c in operation]
        match operation.tag.split("}")[1], attribute:
            case "replace", "":
                place = list(parent).index(element)
                parent.remove(element)
                parent.insert(place, children[0])
            case "replace", _:
                assert attribute in element.attrib
                element.set(attribute, operation.text or "")
            case "remove", "":
                parent.remove(element)
            case "add", "" if operation.get("pos") == "after":
                place = list(parent).index(element) + 1
                parent[place:place] = children
            case "add", "":
                element.extend(children)
            case other:
                raise AssertionError(other)


def fits(patch: bytes, mpd: ET.Element | None) -> bool:
    """Whether a player that has `mpd` takes the patch; if not, it asks for the whole (dash.js 5, Shaka 5.2)."""
    root = ET.fromstring(patch)
    assert root.tag == "{urn:mpeg:dash:schema:mpd-patch:2020}Patch"
    if mpd is None:
        return False
    assert root.get("mpdId") == mpd.get("id")
    return root.get("originalPublishTime") == mpd.get("publishTime")


def same(one: ET.Element, other: ET.Element) -> bool:
    return ET.canonicalize(ET.tostring(one), strip_text=True) == ET.canonicalize(ET.tostring(other), strip_text=True)


@pytest.mark.parametrize("step", [1, 3, 11])
def test_a_chain_of_patches_is_the_newest_mpd(studio: SimpleNamespace, step: int) -> None:
    clock = studio.Clock()
    shown = Presentation("x", PackagerSettings(window_segments=6), clock=clock, wall_us=clock.wall_us)
    feeds = studio.long
    shown.declare([feed.rendition for feed in feeds])
    mine, base, patched, whole, version = None, 0, 0, 0, -1
    for count, event in enumerate(studio.script(feeds, studio.cuts_of(feeds[0]))):
        studio.play(shown, [event], clock, end=False)
        if not shown.ready or shown.version < version + step or count % step:
            continue
        version = shown.version
        body = render.mpd_patch(shown, base)
        newest = ET.fromstring(render.mpd(shown))
        if not fits(body, mine):
            mine, whole = newest, whole + 1
        else:
            assert mine is not None
            apply(mine, body)
            patched += 1
            assert len(body) < len(render.mpd(shown))
        assert same(mine, newest)
        base = shown.published_us // 1000
    assert whole <= 3  # the first, and where a rendition came
    assert patched > 5


@pytest.mark.parametrize("window", [6, 30])
def test_a_patch_adds_and_removes_periods(studio: SimpleNamespace, window: int) -> None:
    clock = studio.Clock()
    shown = Presentation("x", PackagerSettings(window_segments=window), clock=clock, wall_us=clock.wall_us)
    video, *rest = studio.long
    late = studio.Feed(
        rest[0].rendition, [p for p in rest[0].packets if p.pts >= 5 * rest[0].packets[0].track.timescale]
    )
    shown.declare([video.rendition])
    mine, base, periods, whole = None, 0, set(), 0
    for event in studio.script([video, late], studio.cuts_of(video)):
        if getattr(event[2], "index", -1) == 2:
            shown.declare([video.rendition, late.rendition])
        studio.play(shown, [event], clock, end=False)
        if not shown.ready or shown.published_us // 1000 == base:
            continue
        body, newest = render.mpd_patch(shown, base), ET.fromstring(render.mpd(shown))
        if not fits(body, mine):
            mine, whole = newest, whole + 1
        else:
            assert mine is not None
            apply(mine, body)
        assert same(mine, newest)
        periods |= {period.attrib["id"] for period in newest.iterfind(MPD + "Period")}
        base = shown.published_us // 1000
    assert whole == 1
    assert len(periods) == 2
    assert len(mine.findall(MPD + "Period")) == (2 if window == 30 else 1)


def test_an_mpd_that_nobody_remembers_has_a_patch_that_fits_none(studio: SimpleNamespace) -> None:
    clock = studio.Clock()
    shown = Presentation("x", PackagerSettings(), clock=clock, wall_us=clock.wall_us)
    feeds = studio.long
    shown.declare([feed.rendition for feed in feeds])
    events = studio.script(feeds, studio.cuts_of(feeds[0]))
    studio.play(shown, events[:900], clock, end=False)
    mine = ET.fromstring(render.mpd(shown))
    base = shown.published_us // 1000
    assert not fits(render.mpd_patch(shown, base - 7), mine)
    assert fits(render.mpd_patch(shown, base), mine)  # and it is empty
    assert len(ET.fromstring(render.mpd_patch(shown, base))) == 0
    studio.play(shown, events[900:1000], clock, end=False)
    assert fits(render.mpd_patch(shown, base), mine)
    for start in range(1000, 2000, 10):
        studio.play(shown, events[start : start + 10], clock, end=False)
        render.mpd(shown)
    assert len(shown.bases) <= render.MAX_BASES
    shown.end()
    mine = ET.fromstring(shown.bases[max(shown.bases)])
    assert not fits(render.mpd_patch(shown, max(shown.bases)), mine)
    assert b"PatchLocation" not in render.mpd(shown)
