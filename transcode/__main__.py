"""`python -m transcode`, for the core: `worker` is one job, `stills` makes pictures of keyframes, `trial` tries
encoders and decoders (`hardware`)."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    """Parse and run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m transcode", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (("worker", "one transcoding job over a socket"), ("stills", "pictures of keyframes")):
        child = commands.add_parser(name, help=words)
        child.add_argument("--fd", type=int, required=True, help="file descriptor of the connected socket")
        child.add_argument("--memory-bytes", type=int, default=0)
        child.add_argument("--nice", type=int, default=0)
    trial = commands.add_parser("trial", help="try encoders and decoders, print a line of JSON for each")
    trial.add_argument("requests", nargs="+", help="kind:seat:preset; empty for a list of what this build has")
    trial.add_argument("--idle", action="store_true", help="only while nothing else wants the CPU")
    arguments = parser.parse_args()
    if arguments.command == "worker":
        from transcode.worker import main as work

        return work(arguments.fd, arguments.memory_bytes, arguments.nice)
    if arguments.command == "stills":
        from transcode.still_worker import main as make_stills

        return make_stills(arguments.fd, arguments.memory_bytes, arguments.nice)
    from transcode.trial import main as try_them

    return try_them(arguments.requests, idle=arguments.idle)


if __name__ == "__main__":
    sys.exit(main())
