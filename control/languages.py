"""Languages as playlists want them: the shortest code (RFC 5646), and a name that a viewer reads in a menu."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

UNKNOWN = "und"

_TABLE = """
ar ara Arabic|bg bul Bulgarian|ca cat Catalan|cs ces,cze Czech|da dan Danish|de deu,ger German|el ell,gre Greek
en eng English|es spa Spanish|et est Estonian|fa fas,per Persian|fi fin Finnish|fr fra,fre French|he heb Hebrew
hi hin Hindi|hr hrv Croatian|hu hun Hungarian|id ind Indonesian|it ita Italian|ja jpn Japanese|ko kor Korean
lt lit Lithuanian|lv lav Latvian|ms msa,may Malay|nl nld,dut Dutch|no nor Norwegian|pl pol Polish|pt por Portuguese
ro ron,rum Romanian|ru rus Russian|sk slk,slo Slovak|sl slv Slovenian|sr srp Serbian|sv swe Swedish|ta tam Tamil
te tel Telugu|th tha Thai|tr tur Turkish|uk ukr Ukrainian|ur urd Urdu|vi vie Vietnamese|zh zho,chi Chinese
"""


def _read() -> tuple[Mapping[str, str], Mapping[str, str]]:
    short: dict[str, str] = {}
    names: dict[str, str] = {}
    for entry in _TABLE.replace("\n", "|").split("|"):
        if entry:
            code, longer, name = entry.split(" ", 2)
            names[code] = name
            short.update(dict.fromkeys(longer.split(","), code))
    return MappingProxyType(short), MappingProxyType(names)


_SHORT, _NAMES = _read()


def shortest(tag: str) -> str:
    """`eng` becomes `en`, `ger-AT` becomes `de-AT`; what is not known stays as it is, nothing becomes `und`."""
    primary, separator, rest = tag.strip().partition("-")
    primary = primary.lower()
    return (_SHORT.get(primary, primary) or UNKNOWN) + separator + rest


def display_name(tag: str) -> str:
    """`English` for `en`, `en-GB` or `eng`; empty for what is not known."""
    return _NAMES.get(shortest(tag).partition("-")[0], "")
