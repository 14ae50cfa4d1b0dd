"""What several benches take on their command lines."""

from __future__ import annotations

import argparse
from pathlib import Path


def file(text: str) -> Path:
    """A file that is there, for argparse's `type`."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path
