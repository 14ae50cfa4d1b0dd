"""`python -m transcode`: what the core starts. `worker` is one job, `trial` tries one encoder (see `hardware`)."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    """Parse and run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m transcode", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker", help="one transcoding job over a socket")
    worker.add_argument("--fd", type=int, required=True, help="file descriptor of the connected socket")
    worker.add_argument("--memory-bytes", type=int, default=0)
    worker.add_argument("--nice", type=int, default=0)
    trial = commands.add_parser("trial", help="try one encoder, print the result as JSON")
    trial.add_argument("encoder", help="its libav name; empty for a list of all")
    arguments = parser.parse_args()
    if arguments.command == "worker":
        from transcode.worker import main as work

        return work(arguments.fd, arguments.memory_bytes, arguments.nice)
    from transcode.trial import main as try_one

    return try_one(arguments.encoder)


if __name__ == "__main__":
    sys.exit(main())
