"""`headrace stream ...`: they work whether or not the server runs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from control.cli_common import AsJson, Config, Data, client, pairs, say, say_json, say_paste, say_table

Name = Annotated[str, typer.Argument(help="The stream's name: letters, digits, - and _.", show_default=False)]
Values = Annotated[list[str] | None, typer.Option("--set", help="A setting of the stream: FIELD=VALUE (repeatable)")]


def make_app() -> typer.Typer:
    """The commands of `stream`."""
    app = typer.Typer(help="Add, list, show, change and remove streams.", no_args_is_help=True)
    for command, name in ((_add, "add"), (_list, "list"), (_show, "show"), (_set, "set"), (_remove, "remove")):
        app.command(name)(command)
    return app


def _add(
    name: Name,
    playback_id: Annotated[
        str, typer.Option("--playback-id", help="What viewers see in the URL; by default the name")
    ] = "",
    values: Values = None,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a stream and its first key, and print what to paste into the encoder."""
    answer = client(data, config).call("add_stream", name=name, playback_id=playback_id, settings=pairs(values))
    if as_json:
        return say_json(answer)
    say(f"Stream {answer['name']} is there.")
    return say_paste(answer)


def _list(data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the streams."""
    answer = client(data, config).call("streams")
    if as_json:
        return say_json(answer)
    if not answer:
        return say("There are no streams yet: headrace stream add NAME")
    rows = [(s["name"], s["playback_id"], s["live_keys"], s["urls"]["watch"]) for s in answer]
    return say_table(("NAME", "PLAYBACK ID", "LIVE KEYS", "WATCH"), rows)


def _show(name: Name, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show a stream: its settings, keys (never the keys themselves) and URLs."""
    answer = client(data, config).call("stream", name=name)
    if as_json:
        return say_json(answer)
    say(f"{answer['name']} (playback id {answer['playback_id']}), made {answer['created_at']}")
    for label, url in answer["urls"].items():
        say(f"  {label:<8}{url}")
    say("Settings")
    for field, value in answer["settings"].items():
        say(f"  {field} = {_written(value)}")
    say("Keys")
    return say_table(
        ("  ID", "STATE", "EXPIRES", "LAST USED", "LABEL"),
        [(f"  {k['key_id']}", k["state"], k["expires_at"], k["last_used_at"], k["label"]) for k in answer["keys"]],
    )


def _set(
    name: Name,
    values: Annotated[list[str], typer.Argument(help="FIELD=VALUE; nothing after = goes back to the default.")],
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Change settings of a stream; ladder, audio tracks and reconnect window hold on air too, the rest from its next
    publication on."""
    answer = client(data, config).call("change_stream", name=name, settings=pairs(values))
    if as_json:
        return say_json(answer)
    for field, value in answer["settings"].items():
        say(f"{field} = {_written(value)}")
    return None


def _written(value: Any) -> str:
    """A setting as it is written behind FIELD=, nothing where it is not set."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _remove(name: Name, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Remove a stream and its keys; whoever publishes to it is sent away."""
    answer = client(data, config).call("remove_stream", name=name)
    return say_json(answer) if as_json else say(f"Stream {name} is removed.")
