"""The command line: through typer's runner and as a process; with a server beside it and without."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner

from control import check as checks
from control.api import make_app
from control.cli import main
from control.cli import make_app as make_cli
from control.keys import Keys
from control.run_file import announced, api_address, running
from control.services import open_services
from control.settings import Settings
from media.errors import Refused

runner = CliRunner()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in tuple(os.environ):
        if name.startswith("HEADRACE"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HEADRACE_API__PUBLIC_HOST", "live.example.org")


def answer(*arguments: str) -> Any:
    """What a command answers with --json."""
    result = runner.invoke(make_cli(), [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def text(*arguments: str) -> str:
    """What a command prints for people."""
    result = runner.invoke(make_cli(), list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("serve",), ("./headrace-data", "headrace.toml", "Log in JSON")),
        (("edge",), ("by default edge.port", "Log in JSON")),
        (("worker",), ("one for two CPUs", "worker-token", "tls/ca.pem")),
        (("stream", "add"), ("by default the name", "Answer in JSON")),
        (("key", "add"), ("by default no end",)),
    ],
)
def test_help_tells_what_is_taken_where_nothing_is_said(command: tuple[str, ...], said: tuple[str, ...]) -> None:
    """Square brackets are markup to the library that prints help: what stood in them was not there."""
    shown = runner.invoke(make_cli(), [*command, "--help"], env={"COLUMNS": "200"}).output
    assert [words for words in said if words not in shown] == []


async def slug_of(data: Path, key: str) -> str:
    """Whether a key would be let in, by a fresh look at the database."""
    async with open_services(data) as services:
        try:
            await services.keys.verify(key, protocol="rtmp", address="192.0.2.1")
        except Refused as refusal:
            return refusal.slug
    return "good"


def test_stream_add_prints_what_goes_into_obs() -> None:
    shown = text("stream", "add", "main")
    key = next(word for word in shown.split() if word.startswith("hr_"))
    for needed in (
        "rtmp://live.example.org:1935/live\n",
        "rtmps://live.example.org:1936/live\n",
        f"srt://live.example.org:8890?streamid={key}\n",
        "http://localhost:8081/whip\n",
        "http://live.example.org:8080/watch/main\n",
    ):
        assert needed in shown
    assert key not in text("stream", "show", "main") + text("key", "list", "main") + text("key", "audit")
    assert "main" in text("stream", "list")


def test_json_answers_have_the_names_of_the_contract(tmp_path: Path) -> None:
    made = answer("stream", "add", "main", "--playback-id", "show")
    assert (made["name"], made["playback_id"]) == ("main", "show")
    assert set(made["urls"]) == {"rtmp", "rtmps", "srt", "whip", "watch", "hls", "dash"}
    assert made["urls"]["rtmp"] == f"rtmp://live.example.org:1935/live/{made['key']}"
    more = answer("key", "add", "main", "--expires", "2h", "--once", "--label", "phone")
    assert {"key", "key_id", "expires_at", "urls"} <= more.keys()
    rotated = answer("key", "rotate", "main", "--grace", "0s")
    assert asyncio.run(slug_of(tmp_path / "data", made["key"])) == "key_expired"
    assert asyncio.run(slug_of(tmp_path / "data", rotated["key"])) == "good"
    assert answer("key", "revoke", rotated["key_id"])["state"] == "revoked"
    assert asyncio.run(slug_of(tmp_path / "data", rotated["key"])) == "key_revoked"
    assert [key["label"] for key in answer("key", "list", "main")] == ["", "phone", ""]
    assert [entry["action"] for entry in answer("key", "audit", "main")][-2:] == ["created", "stream_added"]
    assert answer("stream", "remove", "main") == {"name": "main", "removed": True}
    assert answer("stream", "list") == []


def test_stream_settings() -> None:
    made = answer("stream", "add", "main", "--set", "on_second_publisher=reject", "--set", "ladder=720p,480p")
    assert made["settings"]["on_second_publisher"] == "reject"
    assert made["settings"]["ladder"] == ["720p", "480p"]
    assert "  ladder = 720p,480p\n" in text("stream", "show", "main")
    changed = answer("stream", "set", "main", "on_second_publisher=", "reconnect_window_s=7", "ladder=none")
    assert changed["settings"]["on_second_publisher"] == "takeover"
    assert changed["settings"]["reconnect_window_s"] == 7
    assert changed["settings"]["ladder"] == []
    assert "\nladder = none\n" in text("stream", "set", "main", "reconnect_window_s=9")
    assert "\nladder = \n" in text("stream", "set", "main", "ladder=")


def test_signing_and_srt_passphrase() -> None:
    made = answer("stream", "add", "main", "--set", "srt_passphrase=required")
    assert made["urls"]["srt"].endswith(f"?streamid={made['key']}&passphrase={made['srt_passphrase']}")
    signing = answer("key", "add", "main", "--signing")
    assert signing["key"] in text("key", "add", "main", "--signing") or signing["key"].startswith("hrs_")
    token = answer("key", "token", signing["key_id"], "--expires", "1m")
    assert token["urls"]["rtmp"].endswith(token["token"])


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["stream", "show", "none"], 1, "There is no stream called 'none'."),
        (["stream", "add", "a b"], 1, "cannot be used"),
        (["stream", "add", "a", "--set", "ladder=720p,72p"], 1, "no ladder or rung called 72p"),
        (["key", "add", "x", "--expires", "soon"], 1, "write 90s, 15m, 2h or 7d"),
        (["check", "--set", "rtmp.prot=1"], 2, "did you mean rtmp.port?"),
        (["stream", "list", "--config", "none.toml"], 2, "cannot be read"),
        (["nonsense"], 2, "No such command"),
        (["edge", "--origin", "http://127.0.0.1:1", "--metrics-port", "70000"], 2, "65535"),
    ],
)
def test_errors_are_told_without_a_traceback(
    arguments: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    shown = capsys.readouterr().err
    assert caught.value.code == status
    assert told in shown
    assert "Traceback" not in shown


def test_version() -> None:
    assert re.fullmatch(r"headrace \d+\.\d+\.\d+\n", text("--version"))


def test_errors_in_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit):
        main(["stream", "show", "none", "--json"])
    assert json.loads(capsys.readouterr().err)["slug"] == "unknown_stream"


def test_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "control.cli", "stream", "add", "main", "--json", "--data", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["key"].startswith("hr_")
    assert done.stderr == ""


class _Node:
    def ready(self) -> dict[str, bool]:
        return {}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


class _Beside:
    """Services and API of a "server" in a thread with its own loop, on a port of the system's choice."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._ready, self._done = threading.Event(), threading.Event()
        self.keys: Keys | None = None
        self.news: list[str] = []
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        async with open_services(self._data) as services:
            self.keys = services.keys
            services.directory.on_change(lambda change: self.news.append(f"{change.kind.value} {change.reason}"))
            with socket.create_server(("127.0.0.1", 0)) as sock:
                port = sock.getsockname()[1]
                app = make_app(services, Settings(), _Node())  # type: ignore[arg-type]
                server = _Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
                with announced(self._data, api_address("127.0.0.1", port)):
                    async with asyncio.TaskGroup() as group:
                        serving = group.create_task(server.serve([sock]))
                        await server.up.wait()
                        self._ready.set()
                        await asyncio.to_thread(self._done.wait)
                        server.should_exit = True
                        await serving

    def __enter__(self) -> _Beside:
        self.thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.thread.join()


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[_Beside]:
    with _Beside(tmp_path / "data") as it:
        yield it


def test_a_running_server_learns_at_once(beside: _Beside, tmp_path: Path) -> None:
    made = answer("stream", "add", "main")
    assert beside.keys is not None
    assert beside.keys.srt_lookup(made["key"]) == (0, "")
    answer("key", "revoke", made["key_id"])
    assert beside.news[-1] == "key_ended key_revoked"
    assert beside.keys.srt_lookup(made["key"]) == (1401, "")
    assert "There is no stream" in runner.invoke(make_cli(), ["stream", "show", "none"]).exception.args[0]  # type: ignore[union-attr]
    assert text("key", "audit")
    assert answer("stream", "set", "main", "reconnect_window_s=9")["settings"]["reconnect_window_s"] == 9


@pytest.mark.parametrize("name", ["main?x", "main#x", "main/", "main/../main", "main%20", "..", "", " main", "a\nb"])
def test_a_name_is_never_taken_for_another_on_its_way_to_the_server(beside: _Beside, name: str) -> None:
    answer("stream", "add", "main")
    for command in (["stream", "remove", name], ["stream", "show", name], ["key", "revoke", name]):
        result = runner.invoke(make_cli(), command)
        assert isinstance(result.exception, Refused), result.output
    assert [stream["name"] for stream in answer("stream", "list")] == ["main"]


@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity"])
def test_a_number_that_is_none_is_refused_in_words(beside: _Beside, value: str) -> None:
    answer("stream", "add", "main")
    result = runner.invoke(make_cli(), ["stream", "set", "main", f"reconnect_window_s={value}"])
    assert isinstance(result.exception, Refused), result.exception
    assert "reconnect_window_s" in result.exception.text


def test_a_run_file_of_a_killed_server_does_not_count(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    data = tmp_path / "data"
    data.mkdir()
    (data / "run.json").write_text(json.dumps({"pid": dead.pid, "api": "http://127.0.0.1:1"}))
    assert running(data) is None
    (data / "run.json").write_text("{")
    assert running(data) is None
    with announced(data, ""):
        assert running(data) is not None
        assert answer("stream", "list") == []
    assert not (data / "run.json").exists()


def test_links_for_viewers_as_told_where_there_are_no_keys_yet(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="set token_keys"):
        text("viewer", "token", "studio")
    (tmp_path / "headrace.toml").write_text('[edge]\ntoken_keys = "viewer-keys.json"\n')
    with pytest.raises(Refused, match="`headrace viewer rotate`"):
        text("viewer", "token", "studio")
    assert "viewer-keys.json" in text("viewer", "rotate")
    made = answer("viewer", "token", "studio", "--expires", "2h")
    assert made["watch"] == f"http://live.example.org:8080/t/{made['token']}/watch/studio"
    assert "headrace viewer revoke" in text("viewer", "token", "studio")


def test_check_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "clock_offset_s", lambda _server: 12.0)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        flags = [f"--set={section}.port=0" for section in ("rtmps", "srt", "edge", "origin", "api")]
        result = runner.invoke(
            make_cli(),
            ["check", "--json", "--set=rtmp.host=127.0.0.1", f"--set=rtmp.port={port}", *flags],
        )
    found = {row["name"]: row for row in json.loads(result.stdout)}
    assert found["rtmp.port"]["verdict"] == "bad"
    assert "set rtmp.port" in found["rtmp.port"]["text"]
    assert found["api.port"]["verdict"] == found["database"]["verdict"] == found["certificate"]["verdict"] == "ok"
    assert "update-ca-certificates" in found["trust"]["text"]
    assert found["clock"]["verdict"] == "bad"
    assert result.exit_code == 1


def test_the_clock_is_compared_with_a_time_server() -> None:
    """A time server that runs ten seconds ahead."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)

        def serve() -> None:
            import struct
            import time

            _request, address = server.recvfrom(128)
            now = time.time() + 10 + 2_208_988_800
            whole = struct.pack("!II", int(now), int(now % 1 * 2**32))
            server.sendto(b"\x24\x01" + bytes(30) + whole + whole, address)

        thread = threading.Thread(target=serve)
        thread.start()
        offset = checks.clock_offset_s("127.0.0.1", server.getsockname()[1])
        thread.join()
    assert offset == pytest.approx(-10, abs=0.5)
