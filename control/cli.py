"""The command `headrace`. Composition and errors only: the commands are in the files beside this one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from control import cli_keys, cli_lint, cli_server, cli_streams, cli_viewers
from control.settings import SettingsError
from media.errors import HeadraceError


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headrace {metadata.version('headrace')}")
        raise typer.Exit()


def make_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="headrace",
        help="Live streams in over RTMP, RTMPS, SRT and WHIP; LL-HLS and DASH out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_common)
    cli_server.add_to(app)
    cli_lint.add_to(app)
    app.add_typer(cli_streams.make_app(), name="stream")
    app.add_typer(cli_keys.make_app(), name="key")
    app.add_typer(cli_viewers.make_app(), name="viewer")
    return app


def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit status: 0 done, 1 refused or failed, 2 the command or the settings are wrong."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        make_app()(args=given)  # ends the process by itself, with status 2 for a command that does not exist
    except HeadraceError as error:
        _tell(error, as_json="--json" in given)
        sys.exit(2 if isinstance(error, SettingsError) else 1)


def _tell(error: HeadraceError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"slug": error.slug, "text": error.text}), file=sys.stderr)
    else:
        print("\n".join(f"headrace: {line}" for line in error.text.splitlines()), file=sys.stderr)


if __name__ == "__main__":
    main()
