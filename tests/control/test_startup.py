"""What a person reads where a server cannot start: one line, and what to change. Never a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from edge_certificate import write_certificate
from typer.testing import CliRunner

from control.check import Verdict, run_checks
from control.cli import make_app
from control.ladders import unknown_ladders
from control.node import serve
from control.run_file import AlreadyRunning, alone, announced
from control.runtime_folder import runtime_folder
from control.services import open_services
from control.settings import Settings, load
from transcode.settings import TranscodeSettings

PORTS = ("rtmp", "rtmps", "srt", "edge", "origin", "api", "workers")


def quiet(**taken: int) -> Settings:
    """Every port is free but those given."""
    flags = [f"{section}.{field}" for section in PORTS for field in (f"port={taken.get(section, 0)}", "host=127.0.0.1")]
    flags += [] if "workers" in taken else ["workers.enabled=false"]
    more = ["edge.workers=1", "transcode.hardware=false", "workers.enabled=true"]
    return load(None, environment={}, flags=[*more, *flags])


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
    assert f"held by process {os.getpid()}" in lines[0]
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


async def test_check_goes_on_without_a_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = await checked(quiet(), tmp_path / "file")
    assert found["data folder"] is found["database"] is Verdict.BAD
    assert "open files" in found


async def test_a_folder_for_recordings_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    settings = quiet()
    packaging = settings.packager.model_copy(update={"dvr_folder": tmp_path / "file" / "dvr"})
    said = await complaint(settings.model_copy(update={"packager": packaging}), tmp_path / "data", capsys)
    assert "packager.dvr_folder" in said
    assert "Traceback" not in said


def test_reading_makes_no_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_DATA", raising=False)
    commands: list[list[Any]] = [["stream", "list"], ["stream", "show", "x"], ["key", "list", "x"], ["key", "audit"]]
    for command in commands:
        error = CliRunner().invoke(make_app(), command).exception
        assert str(tmp_path / "headrace-data") in str(error)
    assert list(tmp_path.iterdir()) == []


async def test_a_ladder_that_does_not_exist_is_told_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load(None, environment={}, flags=["transcode.ladder=defualt"])
    said = await complaint(settings, tmp_path, capsys)
    assert said.startswith("headrace: transcode.ladder: There is no ladder or rung called defualt")
    results = await asyncio.to_thread(run_checks, settings, tmp_path, ntp_server="127.0.0.1")
    found = {result.name: result for result in results}
    assert found["ladder"].verdict is Verdict.BAD


async def test_a_stream_whose_ladder_has_gone_is_found(tmp_path: Path) -> None:
    async with open_services(tmp_path) as services:
        await services.streams.add("a", settings={"ladder": ["default"]})
        await services.streams.add("b", settings={"ladder": ["gone"]})
        found = [(name, error.slug) for name, error in unknown_ladders(services.streams.list(), TranscodeSettings())]
    assert found == [("b", "unknown_ladder")]


def secure(**edge: Any) -> Settings:
    settings = quiet()
    return settings.model_copy(update={"edge": settings.edge.model_copy(update=edge)})


async def checked(settings: Settings, data: Path) -> dict[str, Verdict]:
    results = await asyncio.to_thread(run_checks, settings, data, ntp_server="127.0.0.1")
    return {result.name: result.verdict for result in results}


async def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each worker told it with a traceback, again and again, and none which file it was."""
    chain, _ = write_certificate(tmp_path, "one.test")
    for key, words in (("none.pem", "none.pem, named in [edge], cannot be read"), (chain.name, "and its private key")):
        settings = secure(certificate=chain, private_key=tmp_path / key, tls_port=0)
        said = await complaint(settings, tmp_path / "data", capsys)
        assert words in said
        assert "Traceback" not in said
        assert (await checked(settings, tmp_path / "data"))["edge.certificate"] is Verdict.BAD


async def test_a_taken_port_for_https_is_not_taken_for_the_plain_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain, private = write_certificate(tmp_path, "one.test")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = secure(certificate=chain, private_key=private, tls_port=taken.getsockname()[1])
        said = await complaint(settings, tmp_path / "data", capsys)
        assert "set edge.tls_port" in said
        assert "edge.port" not in said
        found = await checked(settings, tmp_path / "data")
    assert found["edge.tls_port"] is Verdict.BAD
    assert found["edge.port"] is Verdict.GOOD
    assert found["edge.certificate"] is Verdict.NOTE, "it ends tomorrow"


def test_check_answers_and_nothing_else(tmp_path: Path) -> None:
    done = CliRunner().invoke(make_app(), ["check", "--json", "--data", str(tmp_path)])
    assert {r["name"] for r in json.loads(done.output)} > {"settings", "ladder", "certificate", "rtmp.port"}


def test_what_a_killed_server_left_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with runtime_folder(tmp_path) as left:
        (left / "origin.sock").touch()
        with runtime_folder(tmp_path) as folder:  # as after kill -9: nobody has cleaned up
            assert folder == left
            assert list(folder.iterdir()) == []
            assert folder.stat().st_mode & 0o777 == 0o700
    other = left.parent / "elsewhere"
    other.mkdir()
    left.symlink_to(other)
    with runtime_folder(tmp_path) as folder:  # the name can be guessed: a trap is not walked into
        assert folder != left
    assert set(left.parent.iterdir()) == {left, other}
