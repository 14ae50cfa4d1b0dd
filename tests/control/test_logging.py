"""Logs carry the stream, and never a credential."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from control.banner import Facts, lines
from control.credentials import make_token, new_key
from control.logging import configure
from control.settings import LogSettings


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_credential_gets_into_a_line(form: str) -> None:
    out = io.StringIO()
    configure(LogSettings.model_validate({"format": form}), out=out)
    key, token = new_key(), make_token("k0123456789a", "hrs_x", expires_s=1)
    log = structlog.get_logger("ingest.test")
    log.info("a", url=f"rtmp://host/live/{key}", nested={"list": [token], "passphrase": "geheim1"}, raw=key.encode())
    log.info("b", key="geheim2", error=ValueError(key))
    log.info(f"c {key}")
    logging.getLogger("some.library").warning("d %s", key)
    try:
        raise ValueError(key)
    except ValueError:
        log.exception("e")
        logging.getLogger("some.library").exception("f")
    shown = out.getvalue()
    assert shown.count("***") >= 8
    for secret in (key, token, "geheim"):
        assert secret not in shown


def test_json_lines_carry_level_time_logger_and_context() -> None:
    out = io.StringIO()
    configure(LogSettings(format="json"), out=out)
    with structlog.contextvars.bound_contextvars(stream="main", broadcast="b1"):
        structlog.get_logger("control.x").warning("publisher_lost", reason="timeout")
        logging.getLogger("library").warning("odd %s", "thing")
    ours, theirs = map(json.loads, out.getvalue().splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "event": "publisher_lost", "reason": "timeout", "stream": "main", "broadcast": "b1", "level": "warning",
        "logger": "control.x",
    }  # fmt: skip
    assert (theirs["event"], theirs["logger"], theirs["stream"]) == ("odd thing", "library", "main")


def test_the_level_is_kept() -> None:
    out = io.StringIO()
    configure(LogSettings(level="warning", format="json"), out=out)
    structlog.get_logger("control.x").info("quiet")
    logging.getLogger("uvicorn.error").info("quiet")
    assert out.getvalue() == ""


def test_the_banner_tells_the_next_step() -> None:
    shown = lines(
        Facts(push=[("RTMP", "rtmp://h/live"), ("SRT", "srt://h:1")], watch="http://h/watch/NAME", trust="do it")
    )
    assert "rtmp://h/live" in "\n".join(shown)
    assert any("do it" in line for line in shown)
    assert "stream add" in shown[-1]
    assert "stream add" not in "\n".join(lines(Facts(streams=1)))
    assert lines(Facts(demo="http://h/watch/demo"))[-1].endswith("http://h/watch/demo")
