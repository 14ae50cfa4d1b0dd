"""The folder of a running server's Unix sockets: one to a data folder, so that a killed server's is used again.

It is not in the data folder, because that may be on a file system without sockets, or too deep for the 107 bytes that
a socket's path may have.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def runtime_folder(data: Path) -> Iterator[Path]:
    """An empty folder that only this user may enter, gone after the block. The caller holds the data folder's lock
    (`run_file.alone`): whatever is in it was left behind."""
    mark = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"headrace-{os.geteuid()}-{mark}"
    if _is_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:  # somebody else's: the name can be guessed, so it is not to be trusted
        folder = Path(tempfile.mkdtemp(prefix="headrace-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
