"""What a person reads where a server cannot start: one line, and what to change. Never a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from control.cli import make_app
from control.node import serve
from control.run_file import AlreadyRunning, alone, announced
from control.settings import Settings, load

PORTS = ("rtmp", "rtmps", "srt", "edge", "origin", "api")


def quiet(**taken: int) -> Settings:
    """Every port is free but those given."""
    flags = [f"{section}.{field}" for section in PORTS for field in (f"port={taken.get(section, 0)}", "host=127.0.0.1")]
    return load(None, environment={}, flags=[*flags, "edge.workers=1", "transcode.hardware=false"])


async def complaint(settings: Settings, data: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert await serve(settings, data, demo=False) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("section", PORTS)
async def test_a_taken_port_is_named_with_its_setting(
    section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = socket.SOCK_DGRAM if section == "srt" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        port = other.getsockname()[1]
        said = await complaint(quiet(**{section: port}), tmp_path, capsys)
    lines = [line for line in said.splitlines() if line.startswith("headrace: ")]
    assert len(lines) == 1
    assert str(port) in lines[0]
    assert f"{section}.port" in lines[0]
    assert "Traceback" not in said


async def test_one_server_to_a_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(tmp_path), announced(tmp_path, "http://127.0.0.1:1"):
        said = await complaint(quiet(), tmp_path, capsys)
        assert f"process {os.getpid()}" in said
        assert "--data" in said
        assert (tmp_path / "run.json").exists()
    with alone(tmp_path):
        pass


def test_a_killed_server_leaves_its_folder_free(tmp_path: Path) -> None:
    hold = "import sys, pathlib, control.run_file as r\n"
    hold += "with r.alone(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(AlreadyRunning), alone(tmp_path):
            pass
        other.kill()
    with alone(tmp_path):
        pass


async def test_a_data_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    for data in (file, file / "below"):
        said = await complaint(quiet(), data, capsys)
        assert said.startswith(f"headrace: The data folder {data} cannot be written")
        assert "HEADRACE_DATA" in said


def test_reading_makes_no_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_DATA", raising=False)
    commands: list[list[Any]] = [["stream", "list"], ["stream", "show", "x"], ["key", "list", "x"], ["key", "audit"]]
    for command in commands:
        error = CliRunner().invoke(make_app(), command).exception
        assert str(tmp_path / "headrace-data") in str(error)
    assert list(tmp_path.iterdir()) == []
