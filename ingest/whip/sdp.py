"""Session descriptions for WHIP, pure: what is read of an offer, what is shown to aiortc, what is answered.

A hostile offer never reaches aiortc: only values that were checked here are written into a fresh description.
That also lets us choose the codec ourselves, accept every H.264 profile (nothing is decoded here), and leave out
candidates that only cost time. RFC 9725 4.2; RFC 8829 (JSEP); RFC 8866 (grammar).
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ingest.whip.feedback import URI as TRANSPORT_CC
from media.errors import MediaError, ProtocolError
from media.track import Codec, Kind

MAX_LINES = 2_000
MAX_CANDIDATES = 64
AIORTC_PROFILE = "42e01f"
"""The profile that aiortc knows: the real one is put in its place in the answer."""

_TOKEN = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]{1,64}\Z")
_ICE = re.compile(r"[A-Za-z0-9+/]{4,256}\Z")
_FINGERPRINT = re.compile(r"(sha-(?:256|384|512)) ((?:[0-9A-Fa-f]{2}:){31,63}[0-9A-Fa-f]{2})\Z")
_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
_EXTENSIONS = ("urn:ietf:params:rtp-hdrext:sdes:mid", _SEND_TIME)
_FEEDBACK = ("nack", "nack pli", "ccm fir", "goog-remb")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ICE candidate (RFC 8839 5.1) that can be of use: UDP, component 1, a literal address."""

    foundation: str
    priority: int
    address: str
    port: int
    type: str

    def line(self) -> str:
        return f"{self.foundation} 1 udp {self.priority} {self.address} {self.port} typ {self.type}"


@dataclass(frozen=True, slots=True)
class MediaLine:
    """One m-line of an offer with the codec that was chosen for it."""

    kind: Kind
    mid: str
    codec: Codec
    payload_type: int
    rtx_type: int | None
    fmtp: str
    """Format parameters of the chosen payload type, as offered."""
    feedback: tuple[str, ...]
    extensions: tuple[tuple[int, str], ...]
    transport_cc: int | None
    """Header extension number of transport-wide congestion control, if the peer can do it for this codec."""
    ssrcs: tuple[int, ...]
    """The media SSRC, and that of its retransmissions if named; may be empty."""

    @property
    def parameter_sets(self) -> tuple[bytes, ...]:
        """H.264: SPS and PPS that the offer itself holds (sprop-parameter-sets, RFC 6184 8.1); senders that repeat
        them in the stream leave it out. Empty where there are none that can be read."""
        try:
            stated = _parameter(self.fmtp, "sprop-parameter-sets").split(",")
            return tuple(b64decode(one, validate=True) for one in stated if one)
        except ValueError:
            return ()


@dataclass(frozen=True, slots=True)
class Offer:
    """All of a publisher's offer that matters."""

    media: tuple[MediaLine, ...]
    ufrag: str
    password: str
    fingerprints: tuple[tuple[str, str], ...]
    setup: str
    """`actpass`, `active` or `passive`."""
    candidates: tuple[Candidate, ...] = ()
    ignored_candidates: int = 0

    @property
    def transport_cc(self) -> int | None:
        """The extension's number, where every section has it: feedback counts all packets of the transport."""
        numbers = {line.transport_cc for line in self.media}
        return numbers.pop() if len(numbers) == 1 else None

    @property
    def answer_setup(self) -> str:
        """Passive wherever the offer leaves the choice: aiortc as DTLS client offers ECDHE-ECDSA suites alone,
        which a server with an RSA certificate (GStreamer 1.22) cannot take."""
        return "active" if self.setup == "passive" else "passive"


@dataclass(slots=True)
class _Section:
    """The lines of one media section (or of the session) by attribute."""

    m: str = ""
    attributes: list[tuple[str, str]] = field(default_factory=list)

    def first(self, name: str) -> str | None:
        return next((value for key, value in self.attributes if key == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def parse_offer(text: str) -> Offer:
    """Read an offer. Raises ProtocolError (`malformed_sdp`, `unsupported_offer`) or MediaError (`no_codec`)."""
    session, sections = _sections(text)
    if not sections:
        raise _unsupported("The offer has no media.")
    media = tuple(_media(section) for section in sections)
    kinds = [line.kind for line in media]
    if len(set(kinds)) != len(kinds):
        raise _unsupported("One audio and one video track at most: the offer has more.")
    if len({line.mid for line in media}) != len(media):
        raise _malformed("Two media sections have the same mid.")
    _need_bundle(session, media)
    # JSEP: transport attributes of bundled sections may stand in the first one only (RFC 8843 7.1.3).
    lead = sections[0]
    ufrag = lead.first("ice-ufrag") or session.first("ice-ufrag") or ""
    password = lead.first("ice-pwd") or session.first("ice-pwd") or ""
    if not _ICE.match(ufrag) or not _ICE.match(password) or len(password) < 22:
        raise _malformed("The offer has no usable ice-ufrag and ice-pwd.")
    prints = tuple(_fingerprints(lead.all("fingerprint") or session.all("fingerprint")))
    setup = lead.first("setup") or session.first("setup") or "actpass"
    if setup not in ("actpass", "active", "passive"):
        raise _malformed("The offer's setup attribute is none of actpass, active and passive.")
    lines = [value for section in sections for value in section.all("candidate")]
    candidates, ignored = usable_candidates(lines)
    return Offer(media, ufrag, password, prints, setup, candidates, ignored)


def usable_candidates(lines: Iterable[str]) -> tuple[tuple[Candidate, ...], int]:
    """Those candidates that can be used, each once, and how many were left out.

    Unsupported ones are ignored without an error (RFC 9725 4.3.1): TCP, other components, and names. A name
    ending in .local hides a browser's address and would need multicast DNS; the browser's own checks reach us
    anyway and make it known as a peer-reflexive candidate.
    """
    found: dict[Candidate, None] = {}
    ignored = 0
    for line in lines:
        candidate = _candidate(line)
        if candidate is None or len(found) >= MAX_CANDIDATES:
            ignored += 1
        else:
            found[candidate] = None
    return tuple(found), ignored


def offer_for_aiortc(offer: Offer) -> str:
    """A fresh description with the chosen codecs only. Neither candidates nor their end: those are added later,
    so that aiortc does not give up before our own time limit."""
    prints = [f"a=fingerprint:{name} {value}" for name, value in offer.fingerprints]
    lines = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0"]
    lines.append("a=group:BUNDLE " + " ".join(line.mid for line in offer.media))
    for line in offer.media:
        types = [str(line.payload_type)] + ([str(line.rtx_type)] if line.rtx_type is not None else [])
        lines += [f"m={line.kind.value} 9 UDP/TLS/RTP/SAVPF {' '.join(types)}", "c=IN IP4 0.0.0.0"]
        lines += ["a=sendonly", f"a=mid:{line.mid}", "a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp-mux"]
        lines += [f"a=ice-ufrag:{offer.ufrag}", f"a=ice-pwd:{offer.password}", *prints, f"a=setup:{offer.setup}"]
        # With feedback for every packet aiortc's own bandwidth estimate (REMB) would only be in the way.
        remb = offer.transport_cc is None
        lines += [f"a=extmap:{number} {uri}" for number, uri in line.extensions if remb or uri != _SEND_TIME]
        lines += [text for text in _codec_lines(line) if remb or not text.endswith(" goog-remb")]
        lines += [f"a=ssrc:{ssrc} cname:peer" for ssrc in line.ssrcs]
    return "\r\n".join(lines) + "\r\n"


def answer_for_peer(answer: str, offer: Offer, candidates: Sequence[Candidate]) -> str:
    """aiortc's answer with the real format parameters, our setup role, and the addresses we want to be known by."""
    formats = {line.payload_type: line for line in offer.media}
    out: list[str] = []
    kind = ""
    for raw in answer.replace("\r\n", "\n").strip("\n").split("\n"):
        line = raw
        if line.startswith("m="):
            kind = line[2:].split(" ", 1)[0]
            default = candidates[0] if candidates else None
            if default is not None:
                parts = line.split(" ")
                line = " ".join([parts[0], str(default.port), *parts[2:]])
        elif line.startswith("c=") and candidates:
            line = _connection(candidates[0].address)
        elif line.startswith(("a=candidate:", "a=end-of-candidates", "a=ssrc", "a=msid", "a=fmtp:")):
            # a=fmtp is written anew with the rtpmap; a recvonly section has no SSRC of media.
            if not line.startswith("a=fmtp:") or int(line[7:].split(" ", 1)[0]) in formats:
                continue
        elif line.startswith("a=setup:"):
            line = f"a=setup:{offer.answer_setup}"
        out.append(line)
        if line.startswith("a=mid:") and offer.transport_cc is not None:
            out.append(f"a=extmap:{offer.transport_cc} {TRANSPORT_CC}")
        elif line.startswith("a=rtpmap:"):
            number = int(line[9:].split(" ", 1)[0])
            if number in formats and offer.transport_cc is not None:
                out.append(f"a=rtcp-fb:{number} transport-cc")
            if number in formats and (parameters := _answer_fmtp(formats[number])):
                out.append(f"a=fmtp:{number} {parameters}")
        elif line.startswith("a=setup:") and kind:
            out += [f"a=candidate:{candidate.line()}" for candidate in candidates]
            out.append("a=end-of-candidates")
    return "\r\n".join(out) + "\r\n"


def _answer_fmtp(line: MediaLine) -> str:
    if line.codec is Codec.OPUS:
        # Without stereo=1 in the answer a browser sends one channel (RFC 7587 7.1).
        return "minptime=10;useinbandfec=1;stereo=1;sprop-stereo=0;maxaveragebitrate=160000"
    if line.codec is Codec.H264:
        return line.fmtp
    return ""


def _codec_lines(line: MediaLine) -> list[str]:
    number = line.payload_type
    name = {Codec.H264: "H264/90000", Codec.VP8: "VP8/90000", Codec.OPUS: "opus/48000/2"}[line.codec]
    lines = [f"a=rtpmap:{number} {name}", *(f"a=rtcp-fb:{number} {value}" for value in line.feedback)]
    if line.codec is Codec.H264:
        fmtp = f"level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={AIORTC_PROFILE}"
        lines.append(f"a=fmtp:{number} {fmtp}")
    if line.rtx_type is not None:
        lines += [f"a=rtpmap:{line.rtx_type} rtx/90000", f"a=fmtp:{line.rtx_type} apt={number}"]
    return lines


def _sections(text: str) -> tuple[_Section, list[_Section]]:
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > MAX_LINES:
        raise _malformed("The description has too many lines.")
    if lines[0] != "v=0":
        raise _malformed("The description does not start with v=0.")
    session = _Section()
    sections: list[_Section] = []
    current = session
    for line in lines[1:]:
        if not line.strip():
            continue
        if len(line) < 2 or line[1] != "=":
            raise _malformed("A line of the description is not of the form x=value.")
        if line[0] == "m":
            current = _Section(m=line[2:])
            sections.append(current)
        elif line[0] == "a":
            key, _, value = line[2:].partition(":")
            current.attributes.append((key, value.strip()))
    return session, sections


def _media(section: _Section) -> MediaLine:
    parts = section.m.split()
    if len(parts) < 4 or not parts[1].split("/")[0].isdecimal():
        raise _malformed("A media line is not of the form m=kind port protocol formats.")
    kind = next((kind for kind in Kind if kind.value == parts[0]), None)
    if kind is None or "RTP/SAVP" not in parts[2]:
        raise _unsupported("Only audio and video over SRTP can be published here.")
    if parts[1] == "0" and section.first("bundle-only") is None:
        raise _unsupported("A media section is disabled (port 0).")
    direction = next((key for key, _ in section.attributes if key in _DIRECTIONS), "sendrecv")
    if direction not in ("sendonly", "sendrecv"):
        raise _unsupported("A publisher's media must be offered as sendonly or sendrecv.")
    mid = section.first("mid") or ""
    if not _TOKEN.match(mid):
        raise _malformed("A media section has no usable mid.")
    formats = [_number(number) for number in parts[3:] if 0 <= _number(number) < 128]
    return _with_codec(kind, mid, formats, section)


_DIRECTIONS = ("sendonly", "recvonly", "sendrecv", "inactive")


def _with_codec(kind: Kind, mid: str, formats: list[int], section: _Section) -> MediaLine:
    maps = {number: value for number, value in _numbered(section.all("rtpmap")) if number in formats}
    parameters = dict(_numbered(section.all("fmtp")))
    chosen = _choose(kind, formats, maps, parameters)
    if chosen is None:
        offered = sorted({value.split("/")[0] for value in maps.values() if value})
        wanted = "H.264 or VP8" if kind is Kind.VIDEO else "Opus"
        names = ", ".join(name for name in offered if _TOKEN.match(name))
        raise MediaError(f"No codec in common: {kind.value} must be {wanted}, offered was {names}.", slug="no_codec")
    number, codec = chosen
    rtx = next(
        (
            other
            for other, value in maps.items()
            if value.lower() == "rtx/90000" and _parameter(parameters.get(other, ""), "apt") == str(number)
        ),
        None,
    )
    offered_feedback = {value for key, value in _numbered(section.all("rtcp-fb"), star=number) if key == number}
    extensions = []
    transport_cc = None
    for value in section.all("extmap"):
        head, _, uri = value.partition(" ")
        identity = _number(head.split("/")[0])
        if uri == TRANSPORT_CC and 0 < identity < 15 and "transport-cc" in offered_feedback:
            transport_cc = identity
        elif uri in _EXTENSIONS and 0 < identity < 256:
            extensions.append((identity, uri))
    return MediaLine(
        kind,
        mid,
        codec,
        number,
        rtx,
        parameters.get(number, "") if _safe(parameters.get(number, "")) else "",
        tuple(value for value in _FEEDBACK if value in offered_feedback),
        tuple(extensions),
        transport_cc,
        _ssrcs(section),
    )


def _choose(
    kind: Kind, formats: list[int], maps: dict[int, str], parameters: dict[int, str]
) -> tuple[int, Codec] | None:
    """The offer's first H.264 with packetization-mode 1, then with 0, then VP8; or Opus."""
    names = {number: maps.get(number, "").lower() for number in formats}
    if kind is Kind.AUDIO:
        return next(((n, Codec.OPUS) for n in formats if names[n].startswith("opus/48000")), None)
    h264 = [n for n in formats if names[n] == "h264/90000"]
    h264.sort(key=lambda n: _parameter(parameters.get(n, ""), "packetization-mode") != "1")
    if h264:
        return h264[0], Codec.H264
    return next(((n, Codec.VP8) for n in formats if names[n] == "vp8/90000"), None)


def _ssrcs(section: _Section) -> tuple[int, ...]:
    """Media SSRC first, then that of its RTX stream (ssrc-group FID, RFC 5576 4.2)."""
    seen: dict[int, None] = {}
    for value in section.all("ssrc"):
        head = _number(value.split(" ", 1)[0])
        if 0 <= head < 1 << 32:
            seen[head] = None
    for value in section.all("ssrc-group"):
        name, _, members = value.partition(" ")
        numbers = [_number(member) for member in members.split()]
        if name == "FID" and len(numbers) == 2 and all(number in seen for number in numbers):
            return tuple(numbers)
    return tuple(seen)[:1]


def _numbered(values: list[str], star: int | None = None) -> list[tuple[int, str]]:
    found = []
    for value in values:
        head, _, rest = value.partition(" ")
        if head == "*" and star is not None:
            found.append((star, rest.strip()))
        elif 0 <= _number(head) < 128:
            found.append((_number(head), rest.strip()))
    return found


def _number(text: str) -> int:
    """A number of at most ten digits; -1 for anything else. Python itself refuses to read thousands of digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1


def _parameter(text: str, name: str) -> str:
    for part in text.split(";"):
        key, _, value = part.strip().partition("=")
        if key.lower() == name:
            return value
    return ""


def _safe(text: str) -> bool:
    return len(text) < 512 and text.isascii() and text.isprintable()


def _need_bundle(session: _Section, media: Sequence[MediaLine]) -> None:
    if len(media) == 1:
        return
    for value in session.all("group"):
        name, _, mids = value.partition(" ")
        if name == "BUNDLE" and {line.mid for line in media} <= set(mids.split()):
            return
    raise _unsupported("Audio and video must be bundled on one transport (a=group:BUNDLE).")


def _fingerprints(values: list[str]) -> Iterable[tuple[str, str]]:
    found = [(match[1].lower(), match[2].upper()) for value in values if (match := _FINGERPRINT.match(_low(value)))]
    if not found:
        raise _malformed("The offer has no fingerprint of a SHA-2 family hash.")
    return found[:4]


def _low(value: str) -> str:
    name, _, rest = value.partition(" ")
    return f"{name.lower()} {rest.strip()}"


def _candidate(line: str) -> Candidate | None:
    parts = line.removeprefix("candidate:").split()
    if len(parts) < 8 or parts[6] != "typ" or parts[1] != "1" or parts[2].lower() != "udp":
        return None
    priority, port = _number(parts[3]), _number(parts[5])
    if (
        not _ICE_CHARS.match(parts[0])
        or not 0 <= priority < 1 << 32
        or not 0 < port < 65_536
        or parts[7] not in ("host", "srflx", "prflx", "relay")
    ):
        return None
    try:
        address = ipaddress.ip_address(parts[4])
    except ValueError:
        return None
    if address.is_multicast or address.is_unspecified or address.is_reserved or "%" in parts[4]:
        return None  # a zone (fe80::1%eth0) means something to its own machine alone
    return Candidate(parts[0], priority, str(address), port, parts[7])


_ICE_CHARS = re.compile(r"[A-Za-z0-9+/\-]{1,64}\Z")


def _connection(address: str) -> str:
    return f"c=IN IP{ipaddress.ip_address(address).version} {address}"


def _malformed(text: str) -> ProtocolError:
    return ProtocolError(text, slug="malformed_sdp")


def _unsupported(text: str) -> ProtocolError:
    return ProtocolError(text, slug="unsupported_offer")
