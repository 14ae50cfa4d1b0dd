"""Who may see which stream without a token being asked: by address, by country, by the site that embeds it.

The rules are a TOML file, read again when it changes. `[all]` holds for every stream, `[streams.PLAYBACK]` on top:

    [all]
    deny_addresses = ["198.51.100.0/24", "file:blocked.txt"]   # a file has one address or network a line
    [streams.studio]
    allow_addresses = ["192.0.2.0/24"]     # nobody else
    allow_countries = ["DE", "AT"]         # or deny_countries
    sites = ["example.org", "*.example.org"]   # pages that may embed it; the edge's own page always may
    sites_only = true                      # players that name no page are refused too

Browsers say truthfully which page asks (`Origin`, `Referer`, `Sec-Fetch-Site`); anything else may lie. So rules on
sites keep other pages from living on our bandwidth; they are no access control.
"""

from __future__ import annotations

import ipaddress
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from pydantic import BaseModel, ConfigDict

from edge.client import plain
from edge.request import Request

log = structlog.get_logger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FRAMES = frozenset({"iframe", "frame", "embed", "object"})


class Ranges:
    """Sorted, disjoint ranges of addresses with a value each; of overlapping ones the narrower counts."""

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        """Pairs of network (CIDR, or one address) and value. Raises ValueError."""
        nets = [(ipaddress.ip_network(net, strict=False), value) for net, value in items]
        self._steps = {version: _flat(net for net in nets if net[0].version == version) for version in (4, 6)}

    def find(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
        """The value of the narrowest network around `address`; empty without one."""
        starts, values = self._steps[address.version]
        at = bisect_right(starts, int(address))
        return values[at - 1] if at else ""


def _flat(nets: Iterable[tuple[Network, str]]) -> tuple[list[int], list[str]]:
    """Where the value changes, and to what. Networks nest or are apart, so that a stack holds those we are in."""
    inside: list[tuple[int, str]] = []
    starts: list[int] = []
    values: list[str] = []

    def step(at: int) -> None:
        value = inside[-1][1] if inside else ""
        if starts and starts[-1] == at:
            values[-1] = value
        else:
            starts.append(at)
            values.append(value)

    for net, value in sorted(nets, key=lambda item: (int(item[0][0]), item[0].prefixlen)):
        while inside and inside[-1][0] < int(net[0]):
            step(inside.pop()[0] + 1)
        inside.append((int(net[-1]), value))
        step(int(net[0]))
    while inside:
        step(inside.pop()[0] + 1)
    return starts, values


def countries(path: Path) -> Ranges:
    """A file with `NETWORK,COUNTRY` a line, as free lists have it. Raises OSError or ValueError."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        network, comma, rest = line.partition("#")[0].strip().partition(",")
        if comma:
            found.append((network.strip().strip('"'), rest.split(",")[0].strip().strip('"').upper()))
    return Ranges(found)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    allow_addresses: list[str] = []
    deny_addresses: list[str] = []
    allow_countries: list[str] = []
    deny_countries: list[str] = []
    sites: list[str] = []
    sites_only: bool = False


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    all: _Section = _Section()
    streams: dict[str, _Section] = {}


@dataclass(frozen=True, slots=True)
class Rule:
    """One section, ready to be asked."""

    allowed: Ranges | None
    denied: Ranges | None
    allow_countries: frozenset[str]
    deny_countries: frozenset[str]
    sites: tuple[str, ...]
    sites_only: bool

    @classmethod
    def make(cls, said: _Section, folder: Path) -> Rule:
        """Raises OSError or ValueError."""
        return cls(
            _addresses(said.allow_addresses, folder),
            _addresses(said.deny_addresses, folder),
            frozenset(item.upper() for item in said.allow_countries),
            frozenset(item.upper() for item in said.deny_countries),
            tuple(item.lower() for item in said.sites),
            said.sites_only,
        )


class Rules:
    """Refuses by the rules in a file. `geo`: see `countries`; `country_header`: of a trusted proxy, lower case."""

    def __init__(self, path: Path, geo: Path | None, country_header: str) -> None:
        self._path, self._geo_path, self.country_header = path, geo, country_header
        self._stamp: tuple[int, ...] = ()
        self._all: Rule | None = None
        self._streams: dict[str, Rule] = {}
        self._geo: Ranges | None = None
        self._files: tuple[Path, ...] = ()
        self.broken = True
        """No rules could be read yet: nobody gets in."""
        self.reload()

    def reload(self) -> bool:
        """Read the files again if one has changed, and say so. Broken ones leave the rules as they were."""
        try:
            paths = [self._path, *([self._geo_path] if self._geo_path is not None else ()), *self._files]
            # One that is gone was perhaps named by the rules as they were, and is no more.
            stamp = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
            if stamp == self._stamp:
                return False
            read = _File.model_validate(tomllib.loads(self._path.read_text("utf-8")))
            geo = countries(self._geo_path) if self._geo_path is not None else None
            folder = self._path.parent
            every = Rule.make(read.all, folder)
            streams = {name: Rule.make(section, folder) for name, section in read.streams.items()}
        except (OSError, ValueError) as error:
            log.error("access_rules_not_loaded", error=str(error), path=str(self._path))
            return False
        sections = (read.all, *read.streams.values())
        named = {
            folder / item.removeprefix("file:")
            for section in sections
            for item in (*section.allow_addresses, *section.deny_addresses)
            if item.startswith("file:")
        }
        if tuple(sorted(named)) != self._files:
            self._files, stamp = tuple(sorted(named)), ()
        self._all, self._streams, self._geo, self._stamp, self.broken = every, streams, geo, stamp, False
        return True

    def refuse(self, request: Request, address: str, *, trusted: bool) -> tuple[int, str] | None:
        """Status and slug of a refusal; `trusted`: the peer is a proxy whose country header is believed."""
        parts = request.path.split("/", 3)
        framed = parts[1] == "watch" and request.headers.get("sec-fetch-dest") in FRAMES
        if len(parts) < 3 or not (parts[1] == "live" or framed):
            return None
        if self.broken or self._all is None:
            return 503, "access_rules_unreadable"
        stream = self._streams.get(parts[2])
        for rule in (self._all, stream) if stream is not None else (self._all,):
            slug = self._judge(rule, request, address, trusted, framed)
            if slug:
                return 403, slug
        return None

    def _judge(self, rule: Rule, request: Request, address: str, trusted: bool, framed: bool) -> str:
        headers = request.headers
        if not framed and (rule.allowed is not None or rule.denied is not None):
            parsed = ipaddress.ip_address(plain(address) or "0.0.0.0")
            if rule.denied is not None and rule.denied.find(parsed):
                return "address_denied"
            if rule.allowed is not None and not rule.allowed.find(parsed):
                return "address_not_allowed"
        if not framed and (rule.allow_countries or rule.deny_countries):
            country = self._country(headers, address, trusted)
            if country in rule.deny_countries or (rule.allow_countries and country not in rule.allow_countries):
                return "country_not_allowed"
        if rule.sites and not _site_allowed(rule, headers):
            return "site_not_allowed"
        return ""

    def _country(self, headers: Mapping[str, str], address: str, trusted: bool) -> str:
        """Two letters; empty where nobody knows."""
        said = headers.get(self.country_header, "").strip().upper() if trusted else ""
        if not said and self._geo is not None:
            text = plain(address)
            said = self._geo.find(ipaddress.ip_address(text)) if text else ""
        return said


def _site_allowed(rule: Rule, headers: Mapping[str, str]) -> bool:
    if headers.get("sec-fetch-site") in ("same-origin", "none"):
        return True  # our own page, or an address that a person typed
    named = headers.get("origin") or headers.get("referer") or ""
    try:
        parts = urlsplit(named)
        host, netloc = (parts.hostname or "").lower(), parts.netloc.lower()
    except ValueError:
        return False
    if not host:
        # "null" and silence: a player that is no browser, or a page that hides; a browser still tells the latter.
        return not rule.sites_only and named != "null" and headers.get("sec-fetch-site") != "cross-site"
    if netloc == headers.get("host", "").lower():
        return True
    return any(host == site or (site.startswith("*.") and host.endswith(site[1:])) for site in rule.sites)


def _addresses(items: list[str], folder: Path) -> Ranges | None:
    if not items:
        return None
    found: list[str] = []
    for item in items:
        if item.startswith("file:"):
            lines = (folder / item.removeprefix("file:")).read_text("utf-8").splitlines()
            found += [text for line in lines if (text := line.partition("#")[0].strip())]
        else:
            found.append(item)
    return Ranges((text, "x") for text in found)
