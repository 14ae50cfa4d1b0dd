"""Jobs over real worker processes: what comes out, and what happens when workers die, stall or cannot keep up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from until import until

from media.cut import Cut
from media.packet import Gap, Packet
from transcode.ladder import Ladder, Rung
from transcode.plan import AudioEncode, Plan
from transcode.planner import make_plan
from transcode.pool import Job, Pool
from transcode.process import Process
from transcode.settings import TranscodeSettings

SETTINGS = TranscodeSettings(shed=False, x264_preset="ultrafast", nice=0)
LADDER = Ladder("small", (Rung(120, 200_000),))


def plan_for(track: Any, *, passthrough: bool = True) -> Plan:
    return make_plan(track, None, LADDER, passthrough=passthrough, hardware=None, settings=SETTINGS)


@asynccontextmanager
async def pool_of(settings: TranscodeSettings = SETTINGS) -> AsyncIterator[Pool]:
    pool = Pool(settings)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()
        assert not children()


def children() -> list[str]:
    """Worker processes of this process that are left."""
    listed = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if "transcode worker" in line]


def items_of(kit: Any, clip: Any) -> list[Packet | Cut | Gap]:
    items: list[Packet | Cut | Gap] = kit.interleave(clip.packets, kit.grid(clip.times[0], clip.times[-1]))
    return items


def write_until_cut(job: Job, items: list[Packet | Cut | Gap], index: int) -> None:
    """Write and remove items up to the cut `index`, not including it."""
    while items and not (isinstance(items[0], Cut) and items[0].index == index):
        job.write(items.pop(0))


async def test_a_job_hands_over_every_picture_and_is_gone_after_it(kit: Any, clip: Any) -> None:
    sink = kit.Collected()
    async with pool_of() as pool:
        job = await pool.open(plan_for(clip.track, passthrough=False), sink, name="s")
        for item in items_of(kit, clip):
            job.write(item)
        await job.close(drain=True)
        for name in ("source", "120p"):
            assert [p.pts for p in sink.packets[name]] == clip.times
            assert sink.idrs(name) == [90_000, 270_000, 450_000]
            assert len({p.track for p in sink.packets[name]}) == 1
        assert sink.jpegs
        assert sink.values["frames"] == 150
        assert sink.values["queue_bytes"] == 0
        assert sink.events == []
        assert job.stats.packets_out == 300
        assert pool.jobs == frozenset()
        job.write(clip.packets[0])  # ignored


@pytest.mark.parametrize("passed", [True, False])
async def test_a_killed_worker_is_replaced_and_goes_on_at_the_next_cut(kit: Any, clip: Any, passed: bool) -> None:
    sink = kit.Collected()
    async with pool_of() as pool:
        job = await pool.open(plan_for(clip.track, passthrough=passed), sink, name="s")
        await until(lambda: pool.spare_pid != 0)
        items = items_of(kit, clip)
        write_until_cut(job, items, 1)
        await until(lambda: "120p" in sink.packets)
        spare = pool.spare_pid
        os.kill(job.stats.worker_pid, signal.SIGKILL)
        await until(lambda: bool(sink.events))
        assert sink.events == [("restarted", "killed by SIGKILL", "")]
        before = len(sink.packets["120p"])
        # Without its keyframe: the source of a grid of cuts has none there either.
        for item in items[20:]:
            job.write(item)
        assert job.stats.worker_pid in (0, spare)
        await job.close(drain=True)
        resumed = sink.packets["120p"][before:]
        assert [p.pts for p in resumed] == [t for t in clip.times if t >= 450_000]
        assert resumed[0].keyframe
        assert job.stats.restarts == 1


async def test_a_decoder_that_starts_between_keyframes_is_given_what_came_before(kit: Any) -> None:
    rate = Fraction(25)
    source = kit.code_video(
        kit.pictures(3, rate, "320x180"), [3600 * n for n in range(75)], gop=1000, b_frames=0, rate=rate
    )
    sink = kit.Collected()
    async with pool_of() as pool:
        job = await pool.open(plan_for(source.track), sink, name="s")
        cuts = [Cut(0, 0, 0), Cut(1, 40 * 3600, 0, True, "transcoder_restart")]
        items = kit.interleave(source.packets, cuts)
        write_until_cut(job, items, 1)
        await until(lambda: "120p" in sink.packets)
        os.kill(job.stats.worker_pid, signal.SIGKILL)
        await until(lambda: bool(sink.events))
        sink.packets.clear()
        for item in items:
            job.write(item)
        await job.close(drain=True)
    assert [p.pts for p in sink.packets["120p"]] == source.times[40:]
    reference = {f.pts: f for f in kit.decode_video(source.packets)}
    assert min(kit.psnr(reference[f.pts], f) for f in kit.decode_video(sink.packets["120p"])[::6]) > 28


async def test_a_stalled_worker_is_replaced(kit: Any, clip: Any) -> None:
    sink = kit.Collected()
    async with pool_of(SETTINGS.model_copy(update={"stall_timeout_s": 1.0})) as pool:
        job = await pool.open(plan_for(clip.track), sink, name="s")
        items = items_of(kit, clip)
        write_until_cut(job, items, 1)
        os.kill(job.stats.worker_pid, signal.SIGSTOP)
        write_until_cut(job, items, 2)
        await until(lambda: bool(sink.events))
        assert sink.events[0][1].startswith("stalled for")
        for item in items:
            job.write(item)
        await job.close(drain=True)
        assert sink.packets["120p"][-1].pts == clip.times[-1]


async def test_a_job_whose_workers_keep_dying_is_given_up(kit: Any, clip: Any) -> None:
    sink = kit.Collected()
    async with pool_of(SETTINGS.model_copy(update={"crashes": 3})) as pool:
        job = await pool.open(plan_for(clip.track), sink, name="s")
        for expected in (1, 2, 3):
            await until(lambda: job.stats.worker_pid != 0)
            for item in items_of(kit, clip):
                job.write(item)
            os.kill(job.stats.worker_pid, signal.SIGKILL)
            await until(lambda expected=expected: len(sink.events) == expected)  # type: ignore[misc]
        assert [kind for kind, _, _ in sink.events] == ["restarted", "restarted", "failed"]
        assert pool.jobs == frozenset()
        job.write(clip.packets[0])
        await job.close()
        assert job.stats.state == "failed"


async def test_workers_that_died_before_they_were_given_anything_are_not_held_against_the_source(
    kit: Any, clip: Any
) -> None:
    sink = kit.Collected()
    async with pool_of(SETTINGS.model_copy(update={"crashes": 1})) as pool:
        job = await pool.open(plan_for(clip.track), sink, name="s")
        os.kill(job.stats.worker_pid, signal.SIGKILL)
        await until(lambda: bool(sink.events))
        assert sink.events[0][0] == "restarted"
        for item in items_of(kit, clip):
            job.write(item)
        await job.close(drain=True)
        assert sink.packets["120p"][-1].pts == clip.times[-1]


async def test_worker_and_spare_that_die_together_are_replaced_without_a_pause(
    kit: Any, clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transcode.pool.RETRY_S", 600.0)
    sink = kit.Collected()
    async with pool_of() as pool:
        job = await pool.open(plan_for(clip.track), sink, name="s")
        await until(lambda: pool.spare_pid != 0)
        pids = {pool.spare_pid, job.stats.worker_pid}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: job.stats.worker_pid not in pids | {0})
        await until(lambda: pool.spare_pid not in pids | {0})


async def test_a_full_queue_is_dropped_and_the_job_goes_on_at_the_next_cut(kit: Any, clip: Any) -> None:
    sink = kit.Collected()
    settings = SETTINGS.model_copy(update={"queue_s": 1.0, "stall_timeout_s": 30.0})
    async with pool_of(settings) as pool:
        job = await pool.open(plan_for(clip.track), sink, name="s")
        pid = job.stats.worker_pid
        os.kill(pid, signal.SIGSTOP)
        items = items_of(kit, clip)
        big = [replace(i, data=i.data + bytes(20_000)) if isinstance(i, Packet) else i for i in items]
        write_until_cut(job, big, 2)
        assert set(sink.events) == {("restarted", "overrun", "")}
        stats = job.stats
        assert stats.overruns == len(sink.events) == 2  # and again after the next cut
        assert stats.queue_s <= 1.0
        assert stats.dropped_packets > 20
        os.kill(pid, signal.SIGCONT)
        await until(lambda: job._process is not None and job._process.writable)
        for item in items[-51:]:
            job.write(item)
        await job.close(drain=True)
        assert pid == sink.values["worker_pid"], "an overrun costs no worker"
        assert sink.packets["120p"][-1].pts == clip.times[-1]
        assert 450_000 in sink.idrs("120p")


async def test_a_plan_that_encodes_nothing_has_no_worker_until_it_does(kit: Any, clip: Any) -> None:
    sink = kit.Collected()
    async with pool_of(SETTINGS.model_copy(update={"warm_spare": False})) as pool:
        passed = replace(plan_for(clip.track), video=())
        job = await pool.open(passed, sink, name="s")
        items = items_of(kit, clip)
        write_until_cut(job, items, 1)
        assert job.stats.worker_pid == 0
        job.change(plan_for(clip.track, passthrough=False))
        for item in items:
            job.write(item)
        await until(lambda: job.stats.worker_pid != 0)
        await job.close(drain=True)
        assert [p.pts for p in sink.packets["source"]] == [t for t in clip.times if t >= 270_000]


async def test_sound_alone(kit: Any) -> None:
    source = kit.code_audio([0.0] * 96_000, 48_000, encoder="libopus", channels=2)
    sink = kit.Collected()
    async with pool_of() as pool:
        job = await pool.open(Plan(audio=(AudioEncode("audio", 100, 64_000),)), sink, name="s")
        for item in kit.interleave(source.packets, [Cut(0, 0, 0)]):
            job.write(item)
        await job.close(drain=True)
    assert len(sink.packets["audio"]) > 85
    sink.assert_continuous("audio")


async def test_a_spare_that_dies_waiting_is_not_handed_out(
    kit: Any, clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transcode.pool.RETRY_S", 0.1)
    async with pool_of() as pool:
        await until(lambda: pool.spare_pid != 0)
        pid = pool.spare_pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: pool.spare_pid != pid)
        job = await pool.open(plan_for(clip.track), kit.Collected(), name="s")
        assert job.stats.worker_pid not in (0, pid)


async def test_a_worker_over_its_memory_limit_says_so(kit: Any, clip: Any) -> None:
    settings = SETTINGS.model_copy(update={"memory_bytes": 1024 * 1024, "warm_spare": False, "crashes": 1})
    sink = kit.Collected()
    async with pool_of(settings.model_copy(update={"memory_bytes": 40 * 1024 * 1024})) as pool:
        await pool.open(plan_for(clip.track), sink, name="s")
        await until(lambda: bool(sink.events))
        assert "memory limit" in sink.events[0][1]
        assert "memory_limit" in sink.events[0][2]


async def test_a_crash_is_told_with_its_last_lines(kit: Any, clip: Any) -> None:
    sink = kit.Collected()
    async with pool_of(SETTINGS.model_copy(update={"crashes": 1, "warm_spare": False})) as pool:
        job = await pool.open(plan_for(clip.track), sink, name="s")
        for item in items_of(kit, clip):
            job.write(item)
        os.kill(job.stats.worker_pid, signal.SIGSEGV)
        await until(lambda: bool(sink.events))
    [(kind, reason, told)] = sink.events
    assert kind == "failed"
    assert "killed by SIGSEGV" in reason
    assert "Fatal Python error: Segmentation fault" in told


async def test_nonsense_on_the_socket_ends_the_worker_only(clip: Any) -> None:
    process = await Process.start(SETTINGS)
    reasons: list[str] = []
    process.on_exit = reasons.append
    assert process._transport is not None
    process._transport.write(b"\xff" * 100)
    await process.wait()
    assert reasons == ["exit code 1"]
    assert "larger than allowed" in process.log


def test_no_worker_outlives_its_core(tmp_path: Path) -> None:
    script = (
        "import asyncio, os\n"
        "from transcode.process import Process\n"
        "from transcode.settings import TranscodeSettings\n"
        "async def main():\n"
        "    process = await Process.start(TranscodeSettings())\n"
        "    print(process.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    assert done.returncode == -signal.SIGKILL

    async def gone() -> None:
        await until(
            lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
        )

    asyncio.run(gone())
