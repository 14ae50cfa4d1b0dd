"""The rewind window: segments on disk, budgets, a disk that fails, and a server that starts again."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from media.errors import MediaError
from packager import render
from packager.archive import Archive, load
from packager.hls import lint, parse
from packager.presentation import Presentation
from packager.settings import PackagerSettings

SETTINGS = PackagerSettings(window_segments=6)


class Desk:
    """An archive whose answers come when the test says so."""

    def __init__(self, root: Path, **limits: int) -> None:
        self.answers: list[tuple] = []
        self.archive = Archive(
            root, lambda *call: self.answers.append(call),
            **{"node_bytes": 10**12, "stream_bytes": 10**12, "min_free_bytes": 0} | limits,
        )  # fmt: skip

    def settle(self) -> None:
        end = time.monotonic() + 10
        done: list[bool] = []
        while not self.archive.put(lambda: None, lambda good: done.append(good)):
            time.sleep(0.001)
        while not done and time.monotonic() < end:
            while self.answers:
                call = self.answers.pop(0)
                call[0](*call[1:])
            time.sleep(0.001)
        assert done


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    it = Desk(tmp_path)
    yield it
    it.archive.close()


def play(studio: SimpleNamespace, presentation: Presentation, desk: Desk, *, end: bool = True) -> None:
    feeds = studio.long
    presentation.declare([feed.rendition for feed in feeds])
    for event in studio.script(feeds, studio.cuts_of(feeds[0])):
        studio.play(presentation, [event], end=False)
        if not isinstance(event[2], type(feeds[0].packets[0])):
            desk.settle()
    if end:
        presentation.end()
    desk.settle()


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def playlist(presentation: Presentation, *, delta: bool = False, name: str = "source") -> parse.MediaPlaylist:
    found = parse.parse(render.media_playlist(presentation, presentation.windows[name], delta=delta))
    assert isinstance(found, parse.MediaPlaylist)
    assert lint.check(found) == []
    return found


async def test_old_segments_come_from_disk_and_are_the_same_bytes(studio: SimpleNamespace, desk: Desk) -> None:
    presentation = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    memory = Presentation("x", PackagerSettings(window_segments=30))
    play(studio, presentation, desk, end=False)
    play(studio, memory, desk, end=False)
    listed = presentation.windows["source"].segments
    assert [s.msn for s in listed] == list(range(16))
    assert [s.stored for s in listed] == [True] * 10 + [False] * 6
    assert presentation.size_bytes < memory.size_bytes / 2
    full, delta = playlist(presentation), playlist(presentation, delta=True)
    assert len(full.segments) == 17
    assert delta.skipped >= 9
    assert lint.merge(delta, full)[1] == []
    async with studio.serve({"x": presentation}) as base, studio.serve({"x": memory}) as other:
        for segment in (full.segments[0], full.segments[9], full.segments[12]):
            ours = await asyncio.to_thread(get, f"{base}/live/x/source/{segment.uri}")
            theirs = await asyncio.to_thread(get, f"{other}/live/x/source/seg-{memory.epoch}-{segment.msn}.m4s")
            assert len(ours) > 100
            assert ours == theirs


def test_a_disk_that_fails_leaves_the_memory_and_an_alarm(studio: SimpleNamespace, tmp_path: Path) -> None:
    desk = Desk(tmp_path, min_free_bytes=10**18)
    presentation = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    play(studio, presentation, desk, end=False)
    assert [s.msn for s in presentation.windows["source"].segments] == list(range(10, 16))
    assert desk.archive.failing
    assert desk.archive.failures > 10
    counted = presentation.counters()
    assert (counted["dvr_failing"], counted["dvr_unsaved_segments"] > 10, counted["dvr_bytes"]) == (1, True, 0)
    assert not list(tmp_path.rglob("*.m4s"))
    desk.archive.close()


def test_the_budget_of_a_stream_takes_the_oldest(studio: SimpleNamespace, tmp_path: Path) -> None:
    free = Desk(tmp_path / "free")
    presentation = Presentation("x", SETTINGS, archive=free.archive, dvr_window_s=3600)
    play(studio, presentation, free, end=False)
    whole = free.archive.size_bytes
    tight = Desk(tmp_path / "tight", stream_bytes=whole * 2 // 3)
    presentation = Presentation("x", SETTINGS, archive=tight.archive, dvr_window_s=3600)
    play(studio, presentation, tight, end=False)
    assert tight.archive.size_bytes <= whole * 2 // 3
    assert 6 <= len(presentation.windows["source"].segments) < 16
    on_disk = sum(path.stat().st_size for path in (tmp_path / "tight").rglob("seg-*.m4s"))
    assert on_disk == tight.archive.size_bytes
    playlist(presentation)
    free.archive.close()
    tight.archive.close()


@pytest.mark.parametrize("clean", [True, False])
def test_a_restarted_server_goes_on_where_it_was(studio: SimpleNamespace, tmp_path: Path, clean: bool) -> None:
    desk = Desk(tmp_path)
    presentation = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    play(studio, presentation, desk, end=clean)
    before = playlist(presentation)
    desk.archive.close()

    again = Desk(tmp_path)
    (found,) = load(tmp_path)
    later = Presentation("x", SETTINGS, archive=again.archive, dvr_window_s=3600)
    later.recall(found)
    recalled = playlist(later)
    assert recalled.ended
    assert [s.uri for s in recalled.segments[:16]] == [s.uri for s in before.segments[:16]]
    assert [s.date_time for s in recalled.segments[:16]] == [s.date_time for s in before.segments[:16]]
    last = before.segments[-1].msn if clean else 15 + 3
    assert recalled.segments[-1].msn == last
    assert [s.msn for s in recalled.segments if s.gap] == ([] if clean else [16, 17, 18])
    later.restart()
    play(studio, later, again, end=False)
    after = playlist(later)
    assert [s.msn for s in after.segments if s.discontinuity] == [last + 1]
    waiting = replace(recalled, ended=False, control=after.control, part_target=after.part_target)
    assert lint.follow(waiting, after) == []
    assert len({s.uri for s in after.complete}) == len(after.complete)
    again.archive.close()


def test_a_line_that_a_full_disk_cut_off_costs_no_other(studio: SimpleNamespace, desk: Desk, tmp_path: Path) -> None:
    presentation = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    presentation.declare([feed.rendition for feed in studio.long])
    desk.settle()
    index = tmp_path / "x" / "source" / "index-0.jsonl"
    index.parent.mkdir(parents=True)
    index.write_text("[0,9000")
    play(studio, presentation, desk)
    (found,) = load(tmp_path)
    assert [s.msn for s in found.segments["source"]] == list(range(17))


def test_a_recording_that_cannot_be_read_is_left_alone(studio: SimpleNamespace, desk: Desk, tmp_path: Path) -> None:
    play(studio, Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600), desk)
    (init,) = (tmp_path / "x" / "source").glob("init-*.mp4")
    init.write_bytes(b"")
    (found,) = load(tmp_path)
    later = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    epoch = later.epoch
    with pytest.raises(MediaError):
        later.recall(found)
    assert (later.epoch, later.ended, later.shelves) == (epoch, False, {})
    with pytest.raises(MediaError):
        later.recall(replace(found, meta={}))
    (tmp_path / "x" / "stream.json").write_text("null")
    assert load(tmp_path) == []


def test_a_new_recording_has_no_use_for_one_that_could_not_be_read(
    studio: SimpleNamespace, desk: Desk, tmp_path: Path
) -> None:
    """Its files were never counted nor removed, and its index, further on, hid the new one at the next start."""
    (tmp_path / "x" / "source").mkdir(parents=True)
    (tmp_path / "x" / "stream.json").write_text("null")
    (tmp_path / "x" / "source" / "seg-old-900.m4s").write_bytes(b"x")
    old = '[900,81000000,1000,0,0,"init-old-0.mp4",90000,81000000,180000,0,1,0]'
    (tmp_path / "x" / "source" / "index-0.jsonl").write_text(old)
    play(studio, Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600), desk)
    (found,) = load(tmp_path)
    assert [s.msn for s in found.segments["source"]] == list(range(17))
    assert not list(tmp_path.rglob("*old*"))


def test_a_recording_that_cannot_be_read_counts_and_is_the_first_to_go(studio: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "gone" / "source").mkdir(parents=True)
    (tmp_path / "gone" / "source" / "seg-old-900.m4s").write_bytes(bytes(10**7))
    (tmp_path / "gone" / "stream.json").touch()
    (tmp_path / "somebody's").mkdir()
    (tmp_path / "somebody's" / "letters").write_bytes(bytes(10**7))
    desk = Desk(tmp_path, node_bytes=2 * 10**6)
    presentation = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    desk.archive.note_strays()
    assert desk.archive.size_bytes == 10**7
    play(studio, presentation, desk)
    desk.settle()
    assert not (tmp_path / "gone").exists()
    assert (tmp_path / "somebody's" / "letters").exists()
    assert desk.archive.size_bytes == presentation.counters()["dvr_bytes"] > 0
    assert presentation.evicted_early == 0, "before anything that can be watched"
    desk.archive.close()


def test_a_full_disk_takes_what_cannot_be_read(studio: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "stream.json").write_bytes(b"x")
    desk = Desk(tmp_path, min_free_bytes=10**18)
    desk.archive.note_strays()
    play(studio, Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600), desk)
    desk.settle()
    assert not (tmp_path / "gone").exists()
    desk.archive.close()


def test_events_are_never_numbered_alike(studio: SimpleNamespace, tmp_path: Path) -> None:
    """RFC 8216bis 4.4.5.1: ranges with one ID are one range; and players know an emsg by its id (DASH 5.10.3.3.3)."""
    seen: list[str] = []
    for clean in (True, False, False):
        desk = Desk(tmp_path)
        found = load(tmp_path)
        presentation = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
        if found:
            presentation.recall(found[0])
            presentation.restart()
        play(studio, presentation, desk, end=False)
        for _ in range(3):
            event = presentation.announce(b"x")
            assert event is not None
            seen.append(event.id)
            assert event.number < 2**32
        if clean:
            presentation.end()
        desk.archive.close()
    assert len(set(seen)) == 9
    assert seen[:4] == ["event-1", "event-2", "event-3", "event-4"], "what ended in order goes on in order"


def test_what_is_discarded_leaves_nothing(studio: SimpleNamespace, desk: Desk, tmp_path: Path) -> None:
    presentation = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    play(studio, presentation, desk)
    presentation.discard()
    desk.settle()
    assert list(tmp_path.iterdir()) == []


def half(studio: SimpleNamespace, presentation: Presentation, desk: Desk, change: Callable[[], None]) -> None:
    """Play, with a change in the middle."""
    feeds = studio.long
    presentation.declare([feed.rendition for feed in feeds])
    script = list(studio.script(feeds, studio.cuts_of(feeds[0])))
    for place, event in enumerate(script):
        if place == len(script) // 2:
            change()
        studio.play(presentation, [event], end=False)
        desk.settle()


def test_a_rewind_window_can_come_while_on_air(studio: SimpleNamespace, desk: Desk) -> None:
    presentation = Presentation("x", SETTINGS, archive=desk.archive)
    half(studio, presentation, desk, lambda: presentation.rewind(3600))
    listed = presentation.windows["source"].segments
    assert 6 < len(listed) < 12, "those of before are not on disk, and leave when they leave the memory"
    assert [s.stored for s in listed[-7:]] == [True] + [False] * 6
    playlist(presentation)
    assert load(desk.archive.root)[0].meta["dvr_window_s"] == 3600


def test_a_rewind_window_can_go_while_on_air(studio: SimpleNamespace, desk: Desk, tmp_path: Path) -> None:
    presentation = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    half(studio, presentation, desk, lambda: presentation.rewind(0))
    assert len(presentation.windows["source"].segments) == 6
    playlist(presentation)
    presentation.end()
    assert presentation.keep_s == 0
    presentation.discard()
    desk.settle()
    assert list(tmp_path.iterdir()) == []


def test_what_was_to_go_when_the_server_went_goes_after_its_start(
    studio: SimpleNamespace, desk: Desk, tmp_path: Path
) -> None:
    first = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=3600)
    play(studio, first, desk)
    (found,) = load(tmp_path)
    later = Presentation("x", SETTINGS, archive=desk.archive, dvr_window_s=0)
    later.recall(found)
    assert later.stored("source", 0).exists(), "who watches it meanwhile is served"
    later.discard()
    desk.settle()
    assert list(tmp_path.iterdir()) == []
