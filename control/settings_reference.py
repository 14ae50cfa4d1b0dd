"""Writes `docs/settings.md` from the models: `python -m control.settings_reference > docs/settings.md`."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from control.settings import section_models
from control.stream_settings import StreamSettings
from ingest.settings import IceServer
from transcode.settings import LadderSettings, RungSettings

_HEAD = """# Settings

Generated from the models by `python -m control.settings_reference`; a test keeps it up to date.

Settings come from `headrace.toml` in the current folder (or `--config FILE`, or `HEADRACE_CONFIG`), over it from the
environment, and over that from `--set section.field=value`. The variable of a setting is
`HEADRACE_<SECTION>__<FIELD>`, for example `HEADRACE_RTMP__PORT=1945`. Lists are written in the environment as words
between commas, or as JSON. What is unknown or wrong is refused at the start, all of it at once.

The data folder is `--data`, else `HEADRACE_DATA`, else `./headrace-data`.
"""

_STREAM_HEAD = """## Settings of a stream

Kept with each stream in the database: `headrace stream add NAME --set FIELD=VALUE`, `headrace stream set NAME
FIELD=VALUE`, or `PATCH /v1/streams/NAME`.
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD]
    for section, model in section_models().items():
        parts.append(f"## [{section}]\n\n{_table(model)}")
        if section == "whip":
            parts.append(f"### [[whip.ice_servers]]\n\n{_table(IceServer)}")
        if section == "transcode":
            parts.append(f"### [[transcode.ladders]]\n\n{_table(LadderSettings)}")
            parts.append(f"### [[transcode.ladders.rungs]]\n\n{_table(RungSettings)}")
    parts.append(f"{_STREAM_HEAD}\n{_table(StreamSettings)}")
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> str:
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for name, info in model.model_fields.items():
        default = info.default_factory() if info.default_factory else info.default  # type: ignore[call-arg]
        text = " ".join((info.description or "").split())
        rows.append(f"| `{name}` | {_default(default)} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, PurePath):
        value = str(value)
    return f"`{json.dumps(value, default=str)}`"


if __name__ == "__main__":
    sys.stdout.write(reference())
