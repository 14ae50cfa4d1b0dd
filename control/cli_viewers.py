"""`headrace viewer ...`: links with tokens for viewers. They work whether or not the server runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control import viewer_tokens
from control.api_edge import withdraw
from control.cli_common import AsJson, Config, Data, folder, read_settings, say, say_json
from control.operations import seconds
from control.settings import Settings
from control.urls import viewers
from media.errors import Refused

Id = Annotated[str, typer.Argument(help="The stream's playback id, by default its name.", show_default=False)]


def make_app() -> typer.Typer:
    """The commands of `viewer`."""
    app = typer.Typer(help="Make and withdraw viewer tokens (edge.token_keys).", no_args_is_help=True)
    app.command("token")(_token)
    app.command("revoke")(_revoke)
    app.command("rotate")(_rotate)
    return app


def _token(
    playback_id: Id,
    expires: Annotated[str, typer.Option("--expires", help="Lifetime: 90s, 15m, 2h, 7d.")] = "12h",
    addresses: Annotated[
        list[str] | None, typer.Option("--address", help="Good from this address or network alone (repeatable).")
    ] = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a link for one viewer."""
    del data
    settings = read_settings(config)
    made = viewer_tokens.make(_keys(settings), playback_id, seconds(expires), addresses or [])
    made["watch"] = f"{viewers(settings)}/t/{made['token']}/watch/{playback_id}"
    if as_json:
        return say_json(made)
    say(f"Watch:    {made['watch']}")
    say(f"Withdraw: headrace viewer revoke {made['jti']}")
    return None


def _revoke(
    token: Annotated[str, typer.Argument(help="A token, or its id (jti).", show_default=False)] = "",
    stream: Annotated[str, typer.Option("--stream", help="All tokens of this playback id made before now.")] = "",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw a token, or all of a stream: on every edge within seconds."""
    if bool(token) == bool(stream):
        raise Refused("Name a token, or a stream with --stream.", slug="bad_request")
    withdraw(folder(data), token, stream)
    if as_json:
        return say_json({"revoked": True})
    return say("Withdrawn.")


def _rotate(
    overlap: Annotated[str, typer.Option("--overlap", help="How long tokens of the keys before count.")] = "24h",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a new signing key; tokens of those before count for a while. Edges read the file by themselves."""
    path = _keys(read_settings(config))
    made = viewer_tokens.rotate(path, seconds(overlap))
    if as_json:
        return say_json(made)
    say(f"New key {made['kid']} in {path}; keys before it that still count: {made['old_keys']}.")
    return None


def _keys(settings: Settings) -> Path:
    if settings.edge.token_keys is None:
        raise Refused(
            "Viewer tokens are off: in [edge] of headrace.toml, set token_keys to a file for their signing keys "
            '(token_keys = "viewer-keys.json") and, where every stream wants one, token_required = true. Then make the '
            "first key with `headrace viewer rotate`, and start the server again.",
            slug="no_token_keys",
        )
    return settings.edge.token_keys
