"""`headrace key ...`: they work whether or not the server runs, and act at once on a running one."""

from __future__ import annotations

from typing import Annotated

import typer

from control.cli_common import AsJson, Config, Data, client, say, say_json, say_paste, say_table
from control.operations import seconds

Stream = Annotated[str, typer.Argument(help="Name of the stream.", show_default=False)]
KeyId = Annotated[str, typer.Argument(help="Id of the key, as `key list` shows it.", show_default=False)]


def make_app() -> typer.Typer:
    """The commands of `key`."""
    app = typer.Typer(help="Make, list, rotate and revoke stream keys.", no_args_is_help=True)
    for command, name in (
        (_list, "list"),
        (_add, "add"),
        (_rotate, "rotate"),
        (_revoke, "revoke"),
        (_token, "token"),
        (_audit, "audit"),
    ):
        app.command(name)(command)
    return app


def _list(stream: Stream, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the keys of a stream by id; the keys themselves are stored nowhere."""
    answer = client(data, config).call("keys", name=stream)
    if as_json:
        return say_json(answer)
    kinds = [
        (k, "signing" if k["signing"] else "once" if k["once"] else "", k["expires_at"], k["last_used_at"])
        for k in answer
    ]
    return say_table(
        ("ID", "STATE", "KIND", "EXPIRES", "LAST USED", "LABEL"),
        [(k["key_id"], k["state"], kind, expires, used, k["label"]) for k, kind, expires, used in kinds],
    )


def _add(
    stream: Stream,
    expires: Annotated[str, typer.Option("--expires", help="Lifetime: 90s, 15m, 2h, 7d; by default no end")] = "",
    once: Annotated[bool, typer.Option("--once", help="Good for one publication only.")] = False,
    label: Annotated[str, typer.Option("--label", help="A note for yourself.")] = "",
    signing: Annotated[
        bool, typer.Option("--signing", help="A key for signing publish tokens; it cannot publish itself.")
    ] = False,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a further key for a stream."""
    expires_s = seconds(expires) if expires else None
    answer = client(data, config).call(
        "add_key", name=stream, expires_s=expires_s, once=once, label=label, signing=signing
    )
    if as_json:
        return say_json(answer)
    if signing:
        say(f"Signing key (shown this once):  {answer['key']}")
        return say(f"Key id:                         {answer['key_id']}")
    return say_paste(answer)


def _rotate(
    stream: Stream,
    grace: Annotated[str, typer.Option("--grace", help="How long the old keys live on.")] = "60s",
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key; the old ones, and what still publishes with them, end after the grace time."""
    answer = client(data, config).call("rotate_key", name=stream, grace_s=seconds(grace))
    if as_json:
        return say_json(answer)
    say(f"The other keys of {stream} end in {answer['grace_s']:.0f} s.")
    return say_paste(answer)


def _revoke(key_id: KeyId, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """End a key, and what publishes with it, at once."""
    answer = client(data, config).call("revoke_key", key_id=key_id)
    return say_json(answer) if as_json else say(f"Key {key_id} is revoked.")


def _token(
    key_id: KeyId,
    expires: Annotated[str, typer.Option("--expires", help="Until when it may start a publication.")] = "10m",
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a publish token with a signing key: good once, in place of a stream key."""
    answer = client(data, config).call("make_token", key_id=key_id, expires_s=seconds(expires))
    return say_json(answer) if as_json else say(answer["token"])


def _audit(
    stream: Annotated[str | None, typer.Argument(help="Only of this stream.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened to keys, newest first: made, used, refused, rotated, revoked, expired."""
    answer = client(data, config).call("audit", name=stream, limit=limit)
    if as_json:
        return say_json(answer)
    return say_table(
        ("AT", "ACTION", "REASON", "STREAM", "KEY", "PROTOCOL", "ADDRESS"),
        [[e[c] for c in ("at", "action", "reason", "stream_name", "key_id", "protocol", "address")] for e in answer],
    )
