"""Prometheus metrics of the core, gathered when they are asked for: `headrace_<package>_<what>_<unit>`.

Everything is read from the node's own descriptions at scrape time: no second set of counters that could disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from control.ports import Node
from control.services import Services
from control.verdict import WORDS

LABELS = ("stream", "broadcast")

_SOURCE: Mapping[str, tuple[str, str]] = {
    "bitrate_bits": ("headrace_ingest_bitrate_bits", "Bits per second that the publisher sends."),
    "frame_rate": ("headrace_ingest_frame_rate_hertz", "Frames per second that arrive."),
    "keyframe_interval_s": ("headrace_ingest_keyframe_interval_seconds", "Mean distance of keyframes."),
    "av_offset_ms": ("headrace_ingest_av_offset_milliseconds", "Newest audio less newest video."),
    "jitter_ms": ("headrace_ingest_jitter_milliseconds", "Spread of arrival against media time."),
    "delay_ms": ("headrace_ingest_delay_milliseconds", "How much later than at its best the source arrives."),
    "keyframe_spread_s": ("headrace_ingest_keyframe_spread_seconds", "Longest less shortest keyframe interval."),
    "rtt_ms": ("headrace_ingest_rtt_milliseconds", "Round-trip time as the protocol knows it."),
    "loss_ratio": ("headrace_ingest_loss_ratio", "Packets lost, as the protocol knows it."),
}
_TRANSCODE: Mapping[str, tuple[str, str]] = {
    "speed_ratio": ("headrace_transcode_speed_ratio", "Media seconds per second; below 1 the worker falls behind."),
    "queue_s": ("headrace_transcode_queue_seconds", "Media time that waits for the worker."),
    "queue_bytes": ("headrace_transcode_queue_bytes", "Bytes that wait for the worker."),
    "worker_lag_s": ("headrace_transcode_lag_seconds", "How far the slowest rung is behind what the worker was given."),
    "shed_level": ("headrace_transcode_shed_level", "Steps of relief: rungs at half the frame rate, then left out."),
}
_PACKAGER: Mapping[str, tuple[str, str]] = {
    "held_bytes": ("headrace_packager_held_bytes", "Media bytes in memory for viewers."),
    "dvr_bytes": ("headrace_packager_dvr_bytes", "Media bytes on disk for rewinding."),
    "dvr_failing": ("headrace_packager_dvr_failing", "1 where segments cannot be written: no rewinding beyond memory."),
}
_COUNTERS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("source", "bytes"): ("headrace_ingest_received_bytes", "Bytes of media received."),
    ("source", "gaps"): ("headrace_ingest_gaps", "Breaks of the source's time line."),
    ("source", "lost"): ("headrace_ingest_lost", "Packets, frames or messages that did not arrive whole."),
    ("source", "sent_again"): ("headrace_ingest_sent_again", "Packets that came at the second attempt."),
    ("transcode", "frames"): ("headrace_transcode_frames", "Frames decoded."),
    ("transcode", "dropped_frames"): ("headrace_transcode_dropped_frames", "Frames that were not encoded."),
    ("transcode", "decoder_errors"): ("headrace_transcode_decoder_errors", "Errors of the decoder."),
    ("transcode", "overruns"): ("headrace_transcode_overruns", "Times that a full queue to the worker was dropped."),
    ("packager", "dropped_packets"): ("headrace_packager_dropped_packets", "Packets that fitted into no segment."),
    ("packager", "holes"): ("headrace_packager_holes", "Holes in a rendition's time line."),
    ("packager", "late_releases"): (
        "headrace_packager_late_releases",
        "Parts that waited in vain for a slow rendition.",
    ),
    ("packager", "evicted_early"): ("headrace_packager_evicted_segments", "Segments that a bound took early."),
    ("packager", "own_cuts"): ("headrace_packager_own_cuts", "Cuts made for sound while video was silent."),
    ("packager", "dvr_unsaved_segments"): ("headrace_packager_dvr_unsaved_segments", "Segments that no disk took."),
    ("transcode", "restarts"): ("headrace_transcode_restarts", "Workers that died and were replaced."),
}


class CoreCollector(Collector):
    """Turns the node's descriptions into metrics."""

    def __init__(self, services: Services, node: Node) -> None:
        self._services = services
        self._node = node

    def collect(self) -> Iterator[Metric]:
        """All metrics of the core, at this moment."""
        live = [b for b in self._node.broadcasts() if b.get("ended") is None]
        yield _gauge("headrace_control_broadcasts", "Broadcasts on air.", len(live))
        yield _gauge("headrace_control_streams", "Streams that exist.", len(self._services.streams.list()))
        ready = GaugeMetricFamily("headrace_control_ready", "1 where a part of the server works.", labels=["part"])
        for part, works in self._node.ready().items():
            ready.add_metric([part], float(works))
        yield ready
        states = Counter(worker["state"] for worker in self._node.workers())
        workers = GaugeMetricFamily("headrace_transcode_remote_workers", "Workers of other machines.", labels=["state"])
        for state in ("warming", "idle", "busy"):
            workers.add_metric([state], states[state])
        yield workers
        yield from self._gate()
        yield from self._refusals()
        yield from self._drops()
        yield from self._origin()
        yield from self._stills()
        yield from self._devices()
        yield from _of_broadcasts(live)

    def _gate(self) -> Iterator[Metric]:
        keys = self._services.keys
        refused = CounterMetricFamily("headrace_control_refused_keys", "Attempts refused.", labels=["reason"])
        for slug, count in sorted(keys.refusals.items()):
            refused.add_metric([slug], count)
        yield refused
        dropped = CounterMetricFamily("headrace_control_audit_dropped_entries", "Audit entries that were lost.")
        dropped.add_metric([], self._services.audit.dropped)
        yield dropped

    def _origin(self) -> Iterator[Metric]:
        answers, waiting = self._node.origin()
        counter = CounterMetricFamily("headrace_packager_origin_requests", "Answers of the origin.", labels=["status"])
        for status, count in sorted(answers.items()):
            counter.add_metric([str(status)], count)
        yield counter
        text = "Requests that wait in the origin for what is not there yet."
        yield _gauge("headrace_packager_origin_waiting_requests", text, waiting)

    def _stills(self) -> Iterator[Metric]:
        counts = self._node.stills()
        stills = CounterMetricFamily(
            "headrace_transcode_stills", "Keyframes of streams of which nothing is encoded.", labels=["result"]
        )
        for result in ("made", "failed", "left_out"):
            stills.add_metric([result], counts[result])
        yield stills
        restarts = CounterMetricFamily("headrace_transcode_stills_restarts", "Deaths of the process that draws them.")
        restarts.add_metric([], counts["restarts"])
        yield restarts

    def _devices(self) -> Iterator[Metric]:
        devices = (self._node.hardware() or {}).get("placement", [])
        load = GaugeMetricFamily(
            "headrace_transcode_device_load_ratio", "Share of a device that is booked.", labels=["device"]
        )
        out = GaugeMetricFamily(
            "headrace_transcode_device_left_out", "1 while a device is left out for failing often.", labels=["device"]
        )
        failures = CounterMetricFamily("headrace_transcode_device_failures", "Failures of devices.", labels=["device"])
        for device in devices:
            load.add_metric([device["id"]], device["load"])
            out.add_metric([device["id"]], float(device["left_out_s"] > 0))
            failures.add_metric([device["id"]], device["failures"])
        yield from (load, out, failures)

    def _refusals(self) -> Iterator[Metric]:
        texts = {
            "publishers": ("headrace_control_refused_publishers", "Publishers that were not admitted.", "reason"),
            "limits": ("headrace_control_limit_ends", "Broadcasts that a limit ended.", "limit"),
            "callers": (
                "headrace_ingest_refused_callers",
                "Connections turned away for being too many, or, of SRT and WHIP, in the handshake for any reason.",
                "protocol",
            ),
        }
        counts = self._node.refusals()
        for section, (name, text, label) in texts.items():
            counter = CounterMetricFamily(name, text, labels=[label])
            for slug, count in sorted(counts.get(section, {}).items()):
                counter.add_metric([slug], count)
            yield counter

    def _drops(self) -> Iterator[Metric]:
        drops = self._node.drops()
        for name, text, key in (
            ("headrace_ingest_srt_dropped_bytes", "Bytes that came faster than they were fetched.", "srt_bytes"),
            ("headrace_packager_dvr_dropped_jobs", "Writes that the queue to the disk had no room for.", "dvr_jobs"),
        ):
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], drops[key])
            yield counter


def _of_broadcasts(live: list[Mapping[str, Any]]) -> Iterator[Metric]:
    for section, table in (("source", _SOURCE), ("transcode", _TRANSCODE), ("packager", _PACKAGER)):
        for field, (name, text) in table.items():
            gauge = GaugeMetricFamily(name, text, labels=LABELS)
            for labels, value in _values(live, section, field):
                gauge.add_metric(labels, value)
            yield gauge
    for (section, field), (name, text) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=LABELS)
        for labels, value in _values(live, section, field):
            counter.add_metric(labels, value)
        yield counter
    dropped = CounterMetricFamily("headrace_control_dropped_packets", "Packets nobody could take.", labels=LABELS)
    for broadcast in live:
        count = broadcast.get("dropped_packets")
        if isinstance(count, (int, float)):
            dropped.add_metric(_labels(broadcast), count)
    yield dropped
    left_out = GaugeMetricFamily(
        "headrace_transcode_left_out_renditions", "Renditions of the ladder that there was no room for.", labels=LABELS
    )
    for broadcast in live:
        left_out.add_metric(_labels(broadcast), len(broadcast.get("left_out") or ()))
    yield left_out
    health = GaugeMetricFamily("headrace_ingest_health", "2 excellent, 1 acceptable, 0 poor.", labels=LABELS)
    for broadcast in live:
        word = (broadcast.get("health") or {}).get("verdict")
        if word in WORDS:
            health.add_metric(_labels(broadcast), WORDS.index(word))
    yield health


def _values(live: list[Mapping[str, Any]], section: str, field: str) -> Iterator[tuple[list[str], float]]:
    for broadcast in live:
        value = (broadcast.get(section) or {}).get(field)
        if isinstance(value, (int, float)):
            yield _labels(broadcast), float(value)


def _labels(broadcast: Mapping[str, Any]) -> list[str]:
    return [str(broadcast["stream"]), str(broadcast["id"])]


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def make_registry(services: Services, node: Node) -> CollectorRegistry:
    """The registry of one server: the core's metrics and those of its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CoreCollector(services, node))
    ProcessCollector(registry=registry, namespace="headrace_control")
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry, more: str) -> bytes:
    """The registry as text, and behind it the metrics of other processes."""
    return generate_latest(registry) + more.encode()
