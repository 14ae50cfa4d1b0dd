"""What `fuzz.py` feeds: every parser that reads from the network, each with real input to begin from."""

from __future__ import annotations

from collections.abc import Callable

import fuzz_control
import fuzz_edge
import fuzz_ingest
import fuzz_media
import fuzz_packager
import fuzz_transcode
from fuzz import Target

_PACKAGES = (fuzz_ingest, fuzz_media, fuzz_packager, fuzz_edge, fuzz_transcode, fuzz_control)
MAKERS: dict[str, Callable[[], Target]] = {
    maker.__name__.strip("_"): maker for package in _PACKAGES for maker in package.TARGETS
}
"""By the parser's name: makes its target, which may take a second."""


def targets() -> list[Target]:
    """Every parser, ready to be fed."""
    return [make() for make in MAKERS.values()]
