"""What a worker leaves out when it falls behind, and when it takes it back. Pure: lag and time in, levels out.

Level 0 is everything. Each level up halves the frame rate of one more rung, lowest value first; after all of them,
each level leaves one more rung out (from the next cut on): those that fewest watch, by value where that is equal or not
known. The last rung and those not `sheddable` are never left out, and `source` is never thinned. Who watched what was
left out goes on with another rung, so that what is out stays what fewest watch.

A step back that did not last is tried again only after twice the time: a machine at its limit would shed and return for
ever, and viewers would see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from transcode.plan import VideoEncode

NOBODY: Mapping[str, int] = MappingProxyType({})

STEP_S = 1.0
"""Between two steps up: long enough to see whether the last one helped."""
CALM_S = 15.0
"""So long without lag before one step down."""
MAX_CALM_S = 600.0
"""What that grows to when steps down do not last."""
TRIAL_S = 60.0
"""A step down has lasted when there was no step up for so long."""
CALM_SHARE = 0.3
"""Of the threshold, under which the worker counts as keeping up."""


class Shedder:
    """Decides the level."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        """Lag, in seconds of media time, above which to shed; 0 never."""
        self.level = 0
        self._changed = 0.0
        self._calm_since: float | None = None
        self._before = 0.0
        self._wait_s = CALM_S
        self._returned: float | None = None
        """When the last step down was taken, until it has lasted."""

    def look(self, lag_s: float, now: float, specs: Sequence[VideoEncode], viewers: Mapping[str, int] = NOBODY) -> str:
        """Take a measurement at `now` (seconds, any origin). Returns what changed, for a person, or nothing."""
        if not self.after_s:
            return ""
        self.level = min(self.level, len(self._steps(specs)))  # of another ladder, perhaps
        if self._returned is not None and now - self._returned >= TRIAL_S:
            self._returned, self._wait_s = None, max(CALM_S, self._wait_s / 2)
        if lag_s > self.after_s * CALM_SHARE:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        if now - self._changed < STEP_S:
            return ""
        if lag_s > self.after_s:
            # Seen once it may be a start or a burst of the network; a lag that shrinks is being worked off.
            before, self._before, self._changed = self._before, lag_s, now
            if not before or lag_s < before or self.level >= len(self._steps(specs)):
                return ""
            self.level += 1
            if self._returned is not None:
                self._returned, self._wait_s = None, min(MAX_CALM_S, self._wait_s * 2)
            return f"{lag_s:.1f} s behind real time: {self._tell(specs, viewers)}."
        self._before = 0.0
        if self.level and self._calm_since is not None and now - self._calm_since >= self._wait_s:
            self.level -= 1
            self._changed = self._calm_since = self._returned = now
            return f"caught up: {self._tell(specs, viewers)}."
        return ""

    def thinned(self, specs: Sequence[VideoEncode]) -> frozenset[str]:
        """Names of the rungs that keep half their frames."""
        return frozenset(name for what, name in self._steps(specs)[: self.level] if what == "thin")

    def off(self, specs: Sequence[VideoEncode], viewers: Mapping[str, int] = NOBODY) -> frozenset[str]:
        """Names of the rungs that are left out. `viewers`: how many watch each."""
        return frozenset(name for what, name in self._steps(specs, viewers)[: self.level] if what == "off")

    @staticmethod
    def _steps(specs: Sequence[VideoEncode], viewers: Mapping[str, int] = NOBODY) -> list[tuple[str, str]]:
        by_value = sorted((s for s in specs if s.sheddable), key=lambda s: s.value)
        by_viewers = sorted(by_value, key=lambda s: viewers.get(s.name, 0))
        return [("thin", s.name) for s in by_value] + [("off", s.name) for s in by_viewers[:-1]]

    def _tell(self, specs: Sequence[VideoEncode], viewers: Mapping[str, int]) -> str:
        off = sorted(self.off(specs, viewers))
        thin = sorted(self.thinned(specs) - set(off))
        parts = [f"{', '.join(thin)} at half the frame rate"] if thin else []
        parts += [f"without {', '.join(off)}"] if off else []
        return "; ".join(parts) or "everything is encoded again"
