"""Why a caller is refused during the handshake: the codes of SRT's access control (`access_control.h`).

libsrt adds 1000 on the wire: a caller that we refuse with 1401 logs 2401. Its own reasons (a wrong passphrase is
1010, a missing one 1011) are not ours to set.
"""

from __future__ import annotations

from enum import IntEnum


class Reject(IntEnum):
    BAD_REQUEST = 1400
    """The stream id could not be read."""
    UNAUTHORIZED = 1401
    """No such key."""
    OVERLOAD = 1402
    """No room for another caller."""
    FORBIDDEN = 1403
    NOT_FOUND = 1404
    BAD_MODE = 1405
    """`m=request`: this port takes streams and gives none."""
    CONFLICT = 1409
    """The stream has a publisher already."""
    NOT_SUPPORTED_MEDIA = 1415
    """`t=file` or `t=auth`: only live streams here."""
    LOCKED = 1423
    INTERNAL = 1500
    DOWN = 1503
    """The server is on its way down."""


def name(code: int) -> str:
    """A slug for the log: `unauthorized`; of a code that is not listed here, the number."""
    try:
        return Reject(code).name.lower()
    except ValueError:
        return str(code)
