"""A bad network between a page that publishes over WHIP and the server: relays in front of the server's candidates.

The answer's candidates are changed on their way to the page, and the browser's own are kept from the server, so that
there is no way around the relays. Signalling (HTTP) is not touched. The server has to listen on 127.0.0.1
(`whip.addresses`).
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route

RELAY = Path(__file__).with_name("lossy_relay.py")
_OURS = re.compile(r"127\.0\.0\.1 (\d+) typ host")
_THEIRS = re.compile(r"a=candidate:.*\r\n")


class Road:
    """One relay to each port that the server has answered with, in this order."""

    def __init__(self, weather: dict[str, float]) -> None:
        self._options = [f"--{name.replace('_', '-')}={value}" for name, value in weather.items()]
        self._relays: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def in_front_of(self, text: str) -> str:
        """The answer with the relays' ports in the place of the server's."""
        return _OURS.sub(lambda match: f"127.0.0.1 {self._port(match[1])} typ host", text)

    def _port(self, port: str) -> int:
        if port not in self._relays:
            command = [sys.executable, str(RELAY), f"--to=127.0.0.1:{port}", *self._options]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdout is not None
            self._relays[port] = process, int(json.loads(process.stdout.readline())["port"])
        return self._relays[port][1]

    def ask(self, command: str) -> list[dict[str, Any]]:
        """`stats`, `cut`, `heal` or `rebind` to each relay; their counters."""
        said = []
        for process, _ in self._relays.values():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{command}\n".encode())
            process.stdin.flush()
            said.append(json.loads(process.stdout.readline()))
        return said

    def close(self) -> None:
        for process, _ in self._relays.values():
            process.kill()
            process.communicate()


@contextlib.contextmanager
def road(page: Page, **weather: float) -> Iterator[Road]:
    """What the page publishes goes through relays with this weather (see `lossy_relay.Weather`; also `seed`)."""
    way = Road(weather)

    def answered(route: Route) -> None:
        answer = route.fetch(post_data=_THEIRS.sub("", route.request.post_data or ""))
        route.fulfill(response=answer, body=way.in_front_of(answer.text()))

    def patch(route: Route) -> None:
        if route.request.method != "PATCH":
            route.continue_()
        elif route.request.headers.get("if-match") == "*":
            answered(route)
        else:
            route.fulfill(status=204)  # its candidates

    page.route("**/whip", lambda route: answered(route) if route.request.method == "POST" else route.continue_())
    page.route("**/whip/*", patch)
    try:
        yield way
    finally:
        way.close()
