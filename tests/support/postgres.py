"""A PostgreSQL of our own: a temporary folder, a socket in it, no port."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`; Debian keeps them off the path. None where there are none."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "postgres").exists()), None)


@contextlib.contextmanager
def postgres(bin_: Path) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database. The server has ended when the block has."""
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="headrace-pg-") as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"

        def run(program: str, *arguments: str) -> None:
            done = subprocess.run(
                [bin_ / program, "-D", data, *arguments],
                user=user,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stdout + done.stderr

        run("initdb", "-A", "trust", "-U", "headrace", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -h '' -F", "start")
        try:
            yield f"postgresql+asyncpg://headrace@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
