"""`headrace lint`."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from control.cli_common import AsJson, say, say_json


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("lint")(_lint)


def _lint(
    url: Annotated[str, typer.Argument(help="A multivariant or media playlist, of any server.")],
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long to follow it.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Follow an HLS or LL-HLS stream like several players at once; status 1 where it breaks a MUST."""
    from control.lint import run

    if not as_json and sys.stderr.isatty():
        typer.echo(f"Following it for {seconds:.0f} s.", err=True)
    report = asyncio.run(run(url, seconds))
    if as_json:
        say_json(report.as_json())
    else:
        for found in sorted(report.found.values(), key=lambda f: (not f.must, f.first_s)):
            word = "MUST  " if found.must else "SHOULD"
            times = f"  ({found.count} times)" if found.count > 1 else ""
            say(f"{found.first_s:8.2f} s  {word}  {found.rule:<14}{found.where}: {found.text}{times}")
        say(
            f"{report.seconds:.0f} s, {report.requests} requests, {report.playlists} playlists "
            f"({report.deltas} delta), {report.segments} segments, {report.parts} parts, "
            f"{report.cancelled_hints} hints cancelled: "
            f"{len(report.musts)} kinds of MUST broken, {len(report.found) - len(report.musts)} of SHOULD"
        )
    raise typer.Exit(1 if report.musts else 0)
