"""`headrace serve`, `edge`, `worker`, `probe` and `check`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from control.cli_common import AsJson, Config, Data, Flags, LogAsJson, client, folder, read_settings, say, say_json
from control.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("serve")(_serve)
    edge = typer.Typer(invoke_without_command=True)
    edge.callback()(_edge)
    edge.command("reload")(_reload)
    edge.command("purge")(_purge)
    app.add_typer(edge, name="edge")
    app.command("worker")(_worker)
    app.command("probe")(_probe)
    app.command("check")(_check)


def _serve(
    config: Config = None,
    data: Data = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Also publish a moving test picture with sound to itself.")
    ] = False,
    flags: Flags = None,
    as_json: LogAsJson = False,
) -> None:
    """Run everything on this machine."""
    settings = read_settings(config, flags)
    if as_json:
        settings = _log_as_json(settings)
    from control.logging import configure
    from control.node import serve

    configure(settings.log)
    raise typer.Exit(_run(serve(settings, folder(data), demo=demo)))


def _log_as_json(settings: Settings) -> Settings:
    return settings.model_copy(update={"log": settings.log.model_copy(update={"format": "json"})})


def _run(main: object) -> int:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status: int = runner.run(main)  # type: ignore[arg-type]
    return status


def _edge(
    context: typer.Context,
    origin: Annotated[
        str, typer.Option("--origin", help="URL of the origin, e.g. http://core:8082; several between commas")
    ] = "",
    port: Annotated[int | None, typer.Option("--port", help="Port for viewers; by default edge.port")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", min=0, max=65_535, help="Port for this edge's own /metrics, on api.host; by default none"
        ),
    ] = None,
    config: Config = None,
    flags: Flags = None,
    as_json: LogAsJson = False,
) -> None:
    """Run an edge on its own. SIGHUP replaces its workers without dropping a request."""
    if context.invoked_subcommand is not None:
        return
    if not origin:
        raise typer.BadParameter("which origin? --origin http://HOST:8082", context)
    settings = read_settings(config, [*(flags or ()), *([] if port is None else [f"edge.port={port}"])])
    if as_json:
        settings = _log_as_json(settings)
    from control.edge_alone import serve_edge
    from control.logging import configure

    configure(settings.log)
    raise typer.Exit(_run(serve_edge(settings.edge, origin, metrics_port, metrics_host=settings.api.host)))


def _reload(data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Replace the workers of the running server's edge, one after another, without dropping a request."""
    answer = client(data, config).call("reload_edge")
    if as_json:
        return say_json(answer)
    return say(f"{answer['workers']} workers replaced.")


def _purge(
    playback_id: Annotated[str, typer.Argument(help="The stream's playback id.", show_default=False)],
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Forget a stream in the caches of all edges."""
    answer = client(data, config).call("purge_edge", playback_id=playback_id)
    if as_json:
        return say_json(answer)
    return say(f"{answer['objects']} objects forgotten on this machine.")


def _worker(
    core: Annotated[str, typer.Option("--core", help="The core's door for workers, e.g. tls://core:8083")],
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, max=256, help="Streams at once; by default one for two CPUs")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="This machine's name to the core; by default the host's")] = "",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="The core's worker-token; by default that of the data folder")
    ] = None,
    authority: Annotated[
        Path | None,
        typer.Option("--ca", help="The core's tls/ca.pem; by default that of the data folder, or the system's"),
    ] = None,
    config: Config = None,
    data: Data = None,
    flags: Flags = None,
    as_json: LogAsJson = False,
) -> None:
    """Transcode on this machine for a core on another one."""
    settings = read_settings(config, flags)
    if as_json:
        settings = _log_as_json(settings)
    from control.logging import configure
    from control.worker_alone import serve_worker

    configure(settings.log)
    raise typer.Exit(
        _run(
            serve_worker(
                settings.transcode, folder(data), core, jobs=jobs, name=name, token_file=token_file, authority=authority
            )
        )
    )


def _probe(config: Config = None, flags: Flags = None, as_json: AsJson = False) -> None:
    """Try every encoder and device, and say which work here."""
    from control.probing import show
    from transcode.hardware import probe

    hardware = asyncio.run(probe(presets=read_settings(config, flags).transcode.presets))
    return say_json(hardware.as_json()) if as_json else show(hardware)


def _check(config: Config = None, data: Data = None, flags: Flags = None, as_json: AsJson = False) -> None:
    """Check the settings and the surroundings: ports, certificates, disk, clock, libraries."""
    from control.check import run_checks
    from control.logging import configure

    settings = read_settings(config, flags)
    configure(settings.log, least="error")  # what it would say is said in the answer
    results = run_checks(settings, Path(folder(data)))
    if as_json:
        say_json([{"name": r.name, "verdict": r.verdict.value, "text": r.text} for r in results])
    else:
        for result in results:
            say(f"{result.verdict.value:<8}{result.name:<16}{result.text}")
    raise typer.Exit(int(any(result.verdict.value == "bad" for result in results)))
