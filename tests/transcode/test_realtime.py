"""SVT-AV1, as root, must not put itself before everything else on the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

OPEN = """
import os, sys
from fractions import Fraction
import av
from transcode import realtime
if "forbid" in sys.argv:
    realtime.forbid()
encoder = av.CodecContext.create("libsvtav1", "w")
encoder.width, encoder.height, encoder.pix_fmt = 320, 180, "yuv420p"
encoder.time_base = Fraction(1, 30)
encoder.options = {"preset": "13"}
encoder.open()
print("policies", *{os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has these priorities")
def test_no_thread_of_svtav1_has_real_time_priority() -> None:
    command = [sys.executable, "-c", OPEN, "forbid"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == f"policies {os.SCHED_OTHER}"
