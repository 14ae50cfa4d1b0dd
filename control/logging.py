"""Logs: structlog, for people on a terminal and as JSON for machines, with every credential masked.

Bind `stream` and `broadcast` to the context (`structlog.contextvars`) or to the logger: both end up in each line.
The logs of libraries (uvicorn, aiortc, SQLAlchemy) pass through the same processors.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from control.credentials import REDACTED
from control.settings import LogSettings

_SECRET_NAMES = frozenset({"key", "token", "passphrase", "secret", "authorization", "password", "credential"})
"""Fields whose whole value is masked, whatever it looks like."""
MASK = "***"
_TRACEBACK = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
"""Without the local variables of each frame: they hold media, and might hold a key."""

Processor = Callable[[WrappedLogger, str, EventDict], EventDict]


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask whatever is, or looks like, a credential: a last line of defence, not a licence to log one."""
    return {name: MASK if name in _SECRET_NAMES else _masked(value) for name, value in event.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return REDACTED.sub(MASK, value)
    if isinstance(value, bytes):
        return REDACTED.sub(MASK, value.decode("utf-8", "backslashreplace"))
    if isinstance(value, dict):
        return {name: MASK if name in _SECRET_NAMES else _masked(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(inner) for inner in value]
    if isinstance(value, BaseException):
        return _masked(str(value))
    return value


def configure(settings: LogSettings, *, least: str = "debug", out: TextIO | None = None) -> None:
    """Set logging up for this process, on stderr or `out`. `least` raises the level that is set, never lowers it."""
    stream = out or sys.stderr
    levels = logging.getLevelNamesMapping()
    level = max(levels[settings.level.upper()], levels[least.upper()])
    as_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _TRACEBACK if as_json else structlog.processors.format_exc_info,
        redact,
    ]
    console = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if as_json else console
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.add_logger_name, *shared, renderer],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter([structlog.stdlib.add_logger_name, *shared], renderer))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("aioice", "aiortc", "aiosqlite", "alembic", "httpx2", "httpcore2", "asyncio", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))


class _Formatter(logging.Formatter):
    """Passes structlog's finished lines on; brings those of other libraries into the same form."""

    def __init__(self, processors: list[Any], renderer: Any) -> None:
        super().__init__()
        self._foreign = structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors[:-1],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, renderer],
        )

    def format(self, record: logging.LogRecord) -> str:
        if record.name.split(".")[0] in ("control", "ingest", "transcode", "packager", "edge", "media"):
            return record.getMessage()
        return self._foreign.format(record)
