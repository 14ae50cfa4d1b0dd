"""Players of others for an hour, on a stream with all its troubles, and the validator beside them.

    python bench/players.py [--seconds 3600] [--players hls.js@1.7 hls.js@1.6 hls.js@1.5 dashjs@5 shaka-player@5]
                            [--reconnect 300] [--ladder 420] [--seek 240] [--no-lint] [--out bench/results/players]

A real server with a rewind window of ten minutes, a real encoder over RTMP (640x360, 25 pictures a second) and each
player in a page of its own of one headless Chromium. Every `--reconnect` seconds the encoder is killed, and comes back
after 1.5, 3.5 or 6 s; every `--ladder` seconds the ladder is another; every `--seek` seconds each player goes 200 s
back, and 20 s later to the live edge. Players are installed by npm into a temporary folder. `headrace lint` follows the
stream for the whole time. Tells, for each player: latency at the live edge, stalls, dropped pictures, switches, seeks,
errors; memory of the server's own process; what the validator found. Prints tables and writes JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import sched
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from live_server import Server, running
from playwright.sync_api import Page
from watching import PLAYS, chromium

SCRIPTS = {
    "hls.js": ("hls", "hls.min.js"),
    "dashjs": ("dash", "modern/umd/dash.all.min.js"),
    "shaka-player": ("shaka", "shaka-player.compiled.js"),
}
"""Package -> which engine of the page it is, and its script under `dist/`."""
AWAKE = ("--disable-background-timer-throttling", "--disable-renderer-backgrounding")
AWAY_S = (1.5, 3.5, 6.0)
LADDERS = ("mobile", "none", "economy", "default")
BACK_S, THERE_S = 200, 20
SOURCE = (
    "-re", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25", "-f", "lavfi", "-i", "sine=frequency=440",
    "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p", "-g", "50",
    "-b:v", "800k", "-maxrate", "800k", "-bufsize", "800k", "-c:a", "aac", "-f", "flv",
)  # fmt: skip


def install(packages: list[str], folder: Path) -> dict[str, str]:
    """By package: the address of its page, without host. Several versions of one package stand side by side."""
    names = {package: f"player{number}" for number, package in enumerate(packages)}
    specs = [f"{name}@npm:{package}" for package, name in names.items()]
    folder.mkdir()
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *specs], cwd=folder, check=True)
    shutil.copy(Path(__file__).parent / "support" / "players.html", folder)
    found = {}
    for package, name in names.items():
        engine, script = SCRIPTS[package.rpartition("@")[0]]
        found[package] = urlencode({"player": engine, "script": f"/node_modules/{name}/dist/{script}"})
    return found


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder over HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Encoder:
    """One that can be killed and comes back."""

    server: Server
    url: str
    away_s: float = 0.0
    """How long it was away in all."""
    process: subprocess.Popen[bytes] | None = None
    _since: float = 0.0

    def go(self) -> None:
        self.process = self.server.push(self.url, *SOURCE)
        if self._since:
            self.away_s += time.monotonic() - self._since

    def kill(self) -> None:
        assert self.process is not None
        self._since = time.monotonic()
        self.process.kill()
        self.process.wait()


def lay_down(
    plan: sched.scheduler, began: float, encoder: Encoder, pages: dict[str, Page], arguments: argparse.Namespace
) -> None:
    """All troubles, each at its time."""

    def at(seconds: float, what: Callable[..., object], *values: object) -> None:
        plan.enterabs(began + seconds, 0, what, values)

    def change(ladder: str) -> None:
        encoder.server.cli("stream", "set", "players", f"ladder={ladder}")

    def seek(seconds: int) -> None:
        for page in pages.values():
            page.evaluate(f"seek({seconds})")

    end = arguments.seconds - 30
    for number, second in enumerate(range(arguments.reconnect, end, arguments.reconnect)):
        at(second, encoder.kill)
        at(second + AWAY_S[number % len(AWAY_S)], encoder.go)
    for number, second in enumerate(range(arguments.ladder, end, arguments.ladder)):
        at(second, change, LADDERS[number % len(LADDERS)])
    for second in range(arguments.seek, end, arguments.seek):
        at(second, seek, BACK_S)
        at(second + THERE_S, seek, 0)
    at(arguments.seconds, lambda: None)


def memory(server: Server) -> int:
    """Megabytes of the server's own process."""
    assert server.process is not None
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def figures(seen: dict[str, Any]) -> dict[str, Any]:
    """A row of the table."""
    late = sorted(seen["latencies"])
    seeks = [took for _, took in seen["seeks"]]
    return {
        "version": seen["version"],
        "latency median, s": round(statistics.median(late), 2) if late else None,
        "95 %, s": round(late[int(len(late) * 0.95)], 2) if late else None,
        "stalls": len(seen["stalls"]),
        "in all, s": round(sum(took for _, took in seen["stalls"]), 1),
        "longest, s": round(max((took for _, took in seen["stalls"]), default=0.0), 1),
        "dropped": f"{seen['dropped']} of {seen['total']}",
        "switches": seen["switches"],
        "seeks": len(seeks),
        "slowest, s": round(max(seeks, default=0.0), 2),
        "errors": len(seen["errors"]),
    }


def table(rows: dict[str, dict[str, Any]]) -> None:
    names = list(next(iter(rows.values())))
    print("| player | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for player, row in rows.items():
        print(f"| {player} | " + " | ".join(str(row[name]) for name in names) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3600)
    usual = ["hls.js@1.7", "hls.js@1.6", "hls.js@1.5", "dashjs@5", "shaka-player@5"]
    parser.add_argument("--players", nargs="*", default=usual)
    parser.add_argument("--reconnect", type=int, default=300)
    parser.add_argument("--ladder", type=int, default=420)
    parser.add_argument("--seek", type=int, default=240)
    parser.add_argument("--no-lint", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/players"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pages_of = install(arguments.players, folder / "players") if arguments.players else {}
        server = stack.enter_context(running(folder / "data"))
        made = server.add("players", dvr_window_s=600, ladder=["economy"])
        encoder = Encoder(server, made["urls"]["rtmp"])
        encoder.go()
        stack.callback(encoder.kill)
        server.wait_on_air("players")
        base = f"{server.edge}/live/players"
        found = folder / "lint.json"
        lint = None
        if not arguments.no_lint:
            command = [sys.executable, "-m", "control.cli", "lint", f"{base}/index.m3u8", "--json", "--seconds"]
            out = stack.enter_context(found.open("wb"))
            lint = subprocess.Popen([*command, str(arguments.seconds)], stdout=out)
            stack.callback(lint.kill)
        browser = stack.enter_context(chromium((*PLAYS, *AWAKE)))
        host = stack.enter_context(served(folder / "players")) if arguments.players else ""
        pages = {}
        for player, query in pages_of.items():
            page = pages[player] = browser.new_context().new_page()
            page.goto(f"{host}/players.html?{query}&{urlencode({'base': base})}")
        plan, began, held = sched.scheduler(time.monotonic), time.monotonic(), [memory(server)]
        lay_down(plan, began, encoder, pages, arguments)
        for second in range(60, arguments.seconds, 60):
            plan.enterabs(began + second, 1, lambda: held.append(memory(server)))
        plan.run()
        seen = {player: page.evaluate("told()") for player, page in pages.items()}
        result: dict[str, Any] = {
            "seconds": arguments.seconds,
            "away_s": round(encoder.away_s, 1),
            "core_mb": held,
            "players": seen,
        }
        if lint is not None:
            lint.wait(120)
            result["lint"] = json.loads(found.read_text())
    if seen:
        table({player: figures(each) for player, each in seen.items()})
    print(f"\nThe encoder was away for {result['away_s']} s in all; the core held {min(held)} to {max(held)} MB.")
    if lint is not None:
        report = result["lint"]
        print(f"{report['requests']} requests of the validator: {report['musts']} MUSTs broken.")
        for each in report["violations"]:
            word = "MUST" if each["must"] else "SHOULD"
            print(f"  {word} {each['rule']} {each['where']}: {each['text']} ({each['count']} times)")
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
