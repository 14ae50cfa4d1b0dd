"""The bodies of PATCH requests: application/trickle-ice-sdpfrag (RFC 8840 9; RFC 9725 4.3). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ingest.whip.sdp import Candidate, usable_candidates
from media.errors import ProtocolError

CONTENT_TYPE = "application/trickle-ice-sdpfrag"
MAX_LINES = 500
_ICE = re.compile(r"[A-Za-z0-9+/]{4,256}\Z")


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a client trickles."""

    ufrag: str
    """Empty where it was left out."""
    password: str
    candidates: tuple[Candidate, ...]
    ignored: int
    complete: bool
    """The client has no more candidates."""


def parse(text: str) -> Fragment:
    """Read a fragment. Raises ProtocolError (`malformed_sdp`) if it is none."""
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > MAX_LINES:
        raise ProtocolError("The fragment has too many lines.", slug="malformed_sdp")
    values: dict[str, str] = {}
    candidates: list[str] = []
    complete = False
    for line in lines:
        if not line.strip():
            continue
        if len(line) < 2 or line[1] != "=":
            raise ProtocolError("A line of the fragment is not of the form x=value.", slug="malformed_sdp")
        key, _, value = line[2:].strip().partition(":")
        if line[0] != "a":
            continue
        if key == "candidate":
            candidates.append(value)
        elif key == "end-of-candidates":
            complete = True
        elif key in ("ice-ufrag", "ice-pwd"):
            if not _ICE.match(value):
                raise ProtocolError("The fragment's ICE credentials are malformed.", slug="malformed_sdp")
            values.setdefault(key, value)
    found, ignored = usable_candidates(candidates)
    return Fragment(values.get("ice-ufrag", ""), values.get("ice-pwd", ""), found, ignored, complete)


def render(ufrag: str, password: str, mid: str, kind: str, candidates: Sequence[Candidate]) -> str:
    """The answer to an ICE restart: our new credentials and all of our candidates."""
    lines = [f"a=ice-ufrag:{ufrag}", f"a=ice-pwd:{password}", f"m={kind} 9 UDP/TLS/RTP/SAVPF 0", f"a=mid:{mid}"]
    lines += [f"a=candidate:{candidate.line()}" for candidate in candidates]
    lines.append("a=end-of-candidates")
    return "\r\n".join(lines) + "\r\n"
