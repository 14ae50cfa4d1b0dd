"""The demonstration picture, as an encoder sees it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from fractions import Fraction
from itertools import count, islice

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from control.demo import FRAME_RATE, GOP, HEIGHT, LATE_S, URL_VARIABLE, WIDTH, frames, on_time


def test_leaves_keyframes_to_the_encoder_and_shows_a_large_clock() -> None:
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.gop_size = Fraction(1, FRAME_RATE), 2 * FRAME_RATE
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "sc_threshold": "0"}
    packets = []
    lines = []
    for n, frame in enumerate(islice(frames(), 2 * FRAME_RATE + 2)):
        frame.pts = n
        plane = frame.planes[0]
        row = (HEIGHT // 8) * plane.line_size  # a row through the clock
        lines.append(bytes(plane)[row + WIDTH // 3 : row + 2 * WIDTH // 3])
        packets += encoder.encode(frame)
    assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == [0, 2 * FRAME_RATE]
    assert len(set(lines)) > FRAME_RATE  # it runs


def test_leaves_out_what_comes_too_late_instead_of_sending_it_in_a_burst() -> None:
    now = [0.0]
    sent: list[int] = []
    keyframes: list[int] = []
    for n, picture in on_time((VideoFrame(16, 16) for _ in count()), lambda: now[0]):
        sent.append(n)
        if picture.pict_type == PictureType.I:
            keyframes.append(n)
        now[0] = max(now[0], (n + 1) / FRAME_RATE) + (5.0 if n == 9 else 0.0)  # the machine is busy once, for 5 s
        if len(sent) == 100:
            break
    after = sent[10]
    assert sent == [*range(10), *range(after, after + 90)]
    assert keyframes == [0, after, *(n for n in sent[11:] if n % GOP == 0)]  # of those to come, whatever was left out
    assert now[0] - LATE_S <= (after + 90) / FRAME_RATE
    assert (after - 10) / FRAME_RATE >= 5.0 - LATE_S - 1 / FRAME_RATE


def test_ends_when_the_server_that_started_it_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"rtmp://127.0.0.1:{nobody.getsockname()[1]}/live/x"
        start = (
            "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'control.demo']);"
            "print(child.pid, flush=True); input()"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", start],
            env={**os.environ, URL_VARIABLE: url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with parent:
            assert parent.stdout is not None
            child = os.pidfd_open(int(parent.stdout.readline()))
            connection, _ = nobody.accept()
            parent.kill()
        connection.close()
        ended, _, _ = select.select([child], [], [], 10)
        os.close(child)
    assert ended
