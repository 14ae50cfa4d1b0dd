"""Snapshots of workers into one Prometheus text. Sums; viewers by the union of their hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edge.latency import BOUNDS_S


@dataclass(slots=True)
class Snapshot:
    """What one worker says of itself; JSON on its private socket."""

    stats: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    viewers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    histograms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Counts per bucket and the sum; see `edge.latency`."""
    upstreams: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By URL: whether it works, requests, failures."""


_COUNTERS = (
    ("bytes_sent", "headrace_edge_sent_bytes_total", "Bytes of answers to viewers"),
    ("bytes_fetched", "headrace_edge_upstream_bytes_total", "Bytes of bodies from the origin"),
    ("upstream_requests", "headrace_edge_upstream_requests_total", "Requests to the origin"),
    ("upstream_failures", "headrace_edge_upstream_failures_total", "Fetches from the origin that failed"),
    ("connections", "headrace_edge_connections_total", "Connections accepted"),
    ("refused", "headrace_edge_refused_total", "Connections and requests turned away by a limit"),
    ("bad_requests", "headrace_edge_bad_requests_total", "Requests that broke the protocol"),
    ("denied", "headrace_edge_denied_total", "Requests without a right to the stream"),
    ("slow_viewers", "headrace_edge_slow_viewers_total", "Viewers cut because they took too little for too long"),
    ("queue_drops", "headrace_edge_queue_drops_total", "Fetches refused because too many waited for a connection"),
    ("evictions", "headrace_edge_evictions_total", "Objects pushed out of memory"),
    ("log_lines", "headrace_edge_access_log_lines_total", "Lines written to the access log"),
    ("log_drops", "headrace_edge_access_log_drops_total", "Lines that the access log had no room or no disk for"),
    ("restarts", "headrace_edge_worker_restarts_total", "Workers replaced after they died"),
)
_GAUGES = (
    ("open_connections", "headrace_edge_open_connections", "Viewer connections"),
    ("waiting_requests", "headrace_edge_waiting_requests", "Viewers who wait for an object or for the rest of one"),
    ("flights", "headrace_edge_upstream_open_requests", "Requests to the origin under way"),
    ("upstream_waiting", "headrace_edge_upstream_waiting", "Fetches that wait for a connection to the origin"),
    ("cache_objects", "headrace_edge_cache_objects", "Objects in memory"),
    ("cache_bytes", "headrace_edge_cache_bytes", "Bytes counted for objects in memory"),
    ("workers", "headrace_edge_workers", "Workers that answered"),
)
_HISTOGRAMS = (
    ("first_byte", "headrace_edge_first_byte_seconds", "Time to the first byte where the cache had no answer"),
    ("blocked", "headrace_edge_blocked_seconds", "The same of requests that joined a fetch under way"),
    ("wake", "headrace_edge_wake_seconds", "Time to write to a crowd that waited for one object"),
)
_RESULTS = ("hit", "miss", "coalesced", "stale", "error")


def render(snapshots: Iterable[Snapshot], extra: Mapping[str, float]) -> bytes:
    """One text (version 0.0.4) for all workers together. `extra` are values of the pool itself."""
    sums: dict[str, float] = dict(extra)
    viewers: dict[str, set[int]] = {}
    found = list(snapshots)
    for snapshot in found:
        for name, value in (*snapshot.stats.items(), *snapshot.gauges.items()):
            sums[name] = sums.get(name, 0) + value
        for stream, hashes in snapshot.viewers.items():
            viewers.setdefault(stream, set()).update(hashes)
    lines = _family("headrace_edge_requests_total", "Answers to viewers by how they came about", "counter")
    lines += [f'headrace_edge_requests_total{{result="{name}"}} {_number(sums.get(name, 0))}' for name in _RESULTS]
    for key, name, text in _COUNTERS:
        lines += [*_family(name, text, "counter"), f"{name} {_number(sums.get(key, 0))}"]
    for key, name, text in _GAUGES:
        lines += [*_family(name, text, "gauge"), f"{name} {_number(sums.get(key, 0))}"]
    for key, name, text in _HISTOGRAMS:
        lines += _histogram(name, text, [item.histograms[key] for item in found if key in item.histograms])
    lines += _upstreams(found)
    lines += _family("headrace_edge_viewers", "Distinct viewers within the last seconds, by stream", "gauge")
    lines += [
        f'headrace_edge_viewers{{stream="{_escape(stream)}"}} {len(viewers[stream])}' for stream in sorted(viewers)
    ]
    return ("\n".join(lines) + "\n").encode()


_UPSTREAM = (
    ("headrace_edge_upstream_up", "Workers' least opinion of an upstream: 1 works, 0 does not", "gauge"),
    ("headrace_edge_upstream_asked_total", "Requests by upstream", "counter"),
    ("headrace_edge_upstream_failed_total", "Failed requests by upstream", "counter"),
)


def _upstreams(found: Sequence[Snapshot]) -> list[str]:
    lines = []
    urls = sorted({url for snapshot in found for url in snapshot.upstreams})
    for index, (name, text, kind) in enumerate(_UPSTREAM):
        lines += _family(name, text, kind)
        for url in urls:
            values = [snapshot.upstreams[url][index] for snapshot in found if url in snapshot.upstreams]
            lines.append(f'{name}{{upstream="{_escape(url)}"}} {_number(sum(values) if index else min(values))}')
    return lines


def _family(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _histogram(name: str, text: str, parts: Sequence[Sequence[float]]) -> list[str]:
    *counts, total = [sum(values) for values in zip(*parts, strict=True)] or [0.0] * (len(BOUNDS_S) + 2)
    lines, below = _family(name, text, "histogram"), 0.0
    for bound, count in zip((*map(repr, BOUNDS_S), "+Inf"), counts, strict=True):
        below += count
        lines.append(f'{name}_bucket{{le="{bound}"}} {_number(below)}')
    return [*lines, f"{name}_sum {_number(total)}", f"{name}_count {_number(below)}"]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
