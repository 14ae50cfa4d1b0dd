"""The settings of the server: one frozen model per section, from `headrace.toml`, the environment and flags.

    headrace.toml  <  HEADRACE_<SECTION>__<FIELD>  <  --set section.field=value

Every mistake is collected and told at once, each with the field's full name and where it came from.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from control.stream_settings import StreamSettings
from edge.settings import EdgeSettings
from ingest.settings import LimitSettings, RtmpSettings, RtmpsSettings, SrtSettings, WhipSettings
from media.errors import HeadraceError
from packager.settings import OriginSettings, PackagerSettings
from transcode.remote_settings import WorkersSettings
from transcode.settings import TranscodeSettings

PREFIX = "HEADRACE_"
OTHER_VARIABLES = ("HEADRACE_DATA", "HEADRACE_CONFIG", "HEADRACE_DEMO_URL")
"""Variables with our prefix that are no settings of a section."""
_OF_KUBERNETES = re.compile(
    r"HEADRACE_([A-Z0-9_]*_)?(SERVICE_HOST=.*|SERVICE_PORT(_[A-Z0-9_]+)?=[0-9]+|PORT=(tcp|udp|sctp)://.*"
    r"|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=.*)",
    re.DOTALL,
)
"""What it tells each container of a service called `headrace` or `headrace-edge` beside it (service links)."""
FILE = "headrace.toml"
_SECRET_FIELDS = ("url", "credential")
"""Fields whose value may hold a password: never repeated in a message."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiSettings(_Section):
    """`[api]`: API, dashboard, metrics and WHIP signalling."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; loopback unless told otherwise. `0.0.0.0` for all."
    )
    port: int = Field(default=8081, ge=0, le=65_535, description="TCP port; 0 takes any free one.")
    enabled: bool = Field(default=True, description="Whether to listen at all; without it there is no WHIP either.")
    public_host: str = Field(
        default="",
        description="Name or address at which publishers and viewers reach this machine, for the URLs that are "
        "printed and for the certificate; empty: a guess.",
    )


class DatabaseSettings(_Section):
    """`[database]`: where streams and keys are kept."""

    url: str = Field(
        default="",
        description="SQLAlchemy URL of an async driver, e.g. `postgresql+asyncpg://...`; empty: SQLite in the data "
        "folder.",
    )


class LogSettings(_Section):
    """`[log]`: what is logged, and in which form."""

    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`console` for people, `json` for machines; `auto`: console on a terminal."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")


class Settings(BaseModel):
    """Everything that may be set, by section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rtmp: RtmpSettings = RtmpSettings()
    rtmps: RtmpsSettings = RtmpsSettings()
    srt: SrtSettings = SrtSettings()
    whip: WhipSettings = WhipSettings()
    edge: EdgeSettings = EdgeSettings()
    origin: OriginSettings = OriginSettings()
    api: ApiSettings = ApiSettings()
    transcode: TranscodeSettings = TranscodeSettings()
    workers: WorkersSettings = WorkersSettings()
    packager: PackagerSettings = PackagerSettings()
    limits: LimitSettings = LimitSettings()
    database: DatabaseSettings = DatabaseSettings()
    log: LogSettings = LogSettings()


class SettingsError(HeadraceError):
    """The settings cannot be used. `text` has one line for each mistake."""

    default_slug = "bad_settings"


def data_folder(flag: Path | None, environment: Mapping[str, str]) -> Path:
    """`--data`, else `HEADRACE_DATA`, else `./headrace-data`."""
    return flag or Path(environment.get("HEADRACE_DATA") or "headrace-data")


def load(
    config: Path | None = None, *, environment: Mapping[str, str], flags: Iterable[str] = (), folder: Path | None = None
) -> Settings:
    """Read the settings. Without `config` (or `HEADRACE_CONFIG`), `headrace.toml` of `folder` (default: the current
    one) is read where it exists. `flags` are `section.field=value`. Raises `SettingsError`."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[tuple[str, ...], str] = {}
    path = config or (Path(environment["HEADRACE_CONFIG"]) if environment.get("HEADRACE_CONFIG") else None)
    default_path = (folder or Path()) / FILE
    if path is not None or default_path.exists():
        _read_file(path or default_path, values, sources)
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in OTHER_VARIABLES:
            if _OF_KUBERNETES.fullmatch(f"{name}={environment[name]}"):
                continue
            where = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
            _put(values, sources, where, environment[name], name, problems)
    for flag in flags:
        left, separator, right = flag.partition("=")
        where = tuple(part.strip().lower().replace("-", "_") for part in left.split("."))
        if not separator:
            problems.append(f"--set {flag}: write SECTION.FIELD=VALUE")
        else:
            _put(values, sources, where, right, f"--set {left}", problems)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [_explain(dict(item), sources) for item in error.errors()]
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _read_file(path: Path, values: dict[str, Any], sources: dict[tuple[str, ...], str]) -> None:
    try:
        values.update(tomllib.loads(path.read_text()))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    for section, fields in values.items():
        sources[(section,)] = str(path)
        if isinstance(fields, dict):
            sources.update({(section, name): str(path) for name in fields})


def _put(
    values: dict[str, Any],
    sources: dict[tuple[str, ...], str],
    where: tuple[str, ...],
    text: str,
    source: str,
    problems: list[str],
) -> None:
    """Lay one textual value over what is there."""
    if len(where) != 2 or not all(where):
        problems.append(f"{source}: a setting has a section and a field, as in HEADRACE_RTMP__PORT or rtmp.port")
        return
    section, field = where
    if not isinstance(values.setdefault(section, {}), dict):
        return  # the file has a plain value where a section should be: told by the validation
    try:
        values[section][field] = _value(section, field, text)
    except json.JSONDecodeError as error:
        problems.append(f"{source}: this is not JSON: {error.msg}")
    sources[where] = source


def _value(section: str, field: str, text: str) -> Any:
    """Lists from text: JSON, or words between commas. Everything else is left to the model."""
    model = section_models().get(section)
    info = model.model_fields.get(field) if model else None
    if info is None:
        return text
    options = get_args(info.annotation) if get_origin(info.annotation) in (Union, types.UnionType) else ()
    kinds = [get_origin(kind) or kind for kind in (options or (info.annotation,))]
    if types.NoneType in kinds and text == "":
        return None
    if text[:1] in ("[", "{") and (tuple in kinds or dict in kinds):
        return json.loads(text)
    if tuple in kinds:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def section_models() -> dict[str, type[BaseModel]]:
    """The model of each section, in the order of the documentation."""
    return {
        name: info.annotation
        for name, info in Settings.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    }


def _explain(error: dict[str, Any], sources: Mapping[tuple[str, ...], str]) -> str:
    """One mistake in words: where it was written, the field's full name, what is wrong, and a guess."""
    where = tuple(str(part) for part in error["loc"])
    name = ".".join(where)
    inside = (text for place, text in sources.items() if place[:1] == where[:1] and len(where) == 1)
    source = sources.get(where[:2]) or sources.get(where[:1]) or next(inside, "")
    start = f"{source}: " if source else ""
    models = section_models()
    if error["type"] == "extra_forbidden" and len(where) == 1:
        return f"{start}there is no section [{name}]{_guess(name, models)}"
    if error["type"] == "extra_forbidden" and len(where) == 2:
        section, field = where
        homes = [f"{other}.{field}" for other, model in models.items() if field in model.model_fields]
        elsewhere = f"; did you mean {homes[0]}?" if len(homes) == 1 else ""
        if not homes and field in StreamSettings.model_fields:
            elsewhere = f": each stream has its own (headrace stream set NAME {field}=...)"
        return f"{start}there is no setting {name}" + (
            elsewhere or _guess(field, models[section].model_fields, prefix=f"{section}.")
        )
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] in ("model_type", "model_attributes_type"):
        message = "a section with settings is expected here, not a single value"
    value = error.get("input")
    shown = f" = {value!r}" if isinstance(value, (str, int, float)) and where[-1] not in _SECRET_FIELDS else ""
    return f"{start}{name}{shown}: {message[:1].lower()}{message[1:]}"


def _guess(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
