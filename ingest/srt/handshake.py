"""What to answer an SRT caller while its handshake waits. Pure but for the gatekeeper, which answers from memory."""

from __future__ import annotations

from ingest.ports import Gatekeeper, SrtAdmission
from ingest.srt import streamid
from ingest.srt.reject import Reject
from ingest.srt.streamid import Mode
from media.errors import ProtocolError


def answer(gatekeeper: Gatekeeper, raw: bytes, address: str) -> SrtAdmission:
    """The admission for a caller with the stream id `raw`. Never raises for what a caller can send."""
    try:
        stated = streamid.parse(raw)
    except ProtocolError:
        return SrtAdmission(reject=Reject.BAD_REQUEST)
    if stated.mode is not Mode.PUBLISH:
        return SrtAdmission(reject=Reject.BAD_MODE)
    if stated.kind != "stream":
        return SrtAdmission(reject=Reject.NOT_SUPPORTED_MEDIA)
    return gatekeeper.srt_handshake(stated.key, address)
