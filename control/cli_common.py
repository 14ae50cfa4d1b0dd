"""What the commands share: options that every one of them takes, settings, and how an answer is printed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from control.client import Client
from control.logging import configure
from control.settings import Settings, data_folder, load

Data = Annotated[Path | None, typer.Option("--data", help="Data folder; by default HEADRACE_DATA, or ./headrace-data")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings file; by default headrace.toml if it exists")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
LogAsJson = Annotated[bool, typer.Option("--json", help="Log in JSON, as log.format=json does.")]
Flags = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting over file and environment: SECTION.FIELD=VALUE (repeatable)"),
]


def read_settings(config: Path | None, flags: Iterable[str] | None = None) -> Settings:
    """The settings of this start. Raises `SettingsError`."""
    return load(config, environment=os.environ, flags=flags or ())


def folder(data: Path | None) -> Path:
    """The data folder of this start."""
    return data_folder(data, os.environ)


def client(data: Path | None, config: Path | None) -> Client:
    """The way to streams and keys."""
    settings = read_settings(config)
    configure(settings.log, least="warning")
    return Client(folder(data), settings)


def pairs(values: Iterable[str] | None) -> dict[str, Any]:
    """`field=value` words as a mapping; JSON where it parses as such, lists between commas, nothing for null."""
    found: dict[str, Any] = {}
    for word in values or ():
        name, separator, value = word.partition("=")
        if not separator:
            raise typer.BadParameter(f"{word}: write FIELD=VALUE")
        name = name.strip().replace("-", "_")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value or None
        if isinstance(found[name], float) and not math.isfinite(found[name]):
            found[name] = value  # no JSON, and for the setting itself to refuse
        if name in ("ladder", "audio_tracks") and isinstance(found[name], str):
            found[name] = [] if value == "none" else [part.strip() for part in value.split(",")]
    return found


def say(text: str = "") -> None:
    """One line for people, never broken: keys and URLs are copied from it."""
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def say_json(answer: Any) -> None:
    """An answer for programs."""
    typer.echo(json.dumps(answer, indent=2))


def say_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A plain table, as wide as it is: ids are copied from it."""
    lines = [list(columns)] + [["-" if cell in (None, "") else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def say_paste(answer: Mapping[str, Any]) -> None:
    """Everything that goes into an encoder for a fresh key, and the page to watch."""
    key, urls, servers = answer["key"], answer["urls"], answer["servers"]
    say(f"Stream key (shown this once):  {key}")
    if answer.get("expires_at"):
        say(f"Expires:                       {answer['expires_at']}")
    if answer["once"]:
        say("Good for one publication.")
    say()
    for protocol, label in (("rtmp", "RTMP"), ("rtmps", "RTMPS")):
        if protocol in servers:
            say(f"{label + ' in OBS:':<16}Service Custom, Server  {servers[protocol]}")
            say(f"{'':<16}Stream Key              {key}")
    if "srt" in servers:
        say(f"{'SRT in OBS:':<16}Service Custom, Server  {urls['srt']}")
        say(f"{'':<16}Stream Key              (leave empty)")
    if "whip" in servers:
        say(f"{'WHIP in OBS:':<16}Service WHIP, Server    {servers['whip']}")
        say(f"{'':<16}Bearer Token            {key}")
    say()
    say(f"Watch:          {urls['watch']}")
    say(f"HLS:            {urls['hls']}")
    say(f"DASH:           {urls['dash']}")
