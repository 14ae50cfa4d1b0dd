"""`python -m edge`: one worker process, started by `edge.supervisor` with its orders as a JSON line on stdin."""

from __future__ import annotations

import gc
import logging
import sys

import structlog
import uvloop

from edge import worker


def configure_logging() -> None:
    """JSON lines on stderr: stdout is the supervisor's."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def run() -> None:
    """Run the worker to its end."""
    configure_logging()
    worker.die_with_parent()
    print('{"warm": true}', flush=True)
    line = worker.read_line()
    if not line:
        return  # a spare that was never needed
    # The hot path makes no reference cycles; full collections over a large cache would only cost latency.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    uvloop.run(worker.main(line))


if __name__ == "__main__":
    run()
