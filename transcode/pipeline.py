"""A worker's whole work, without its socket: input items in order, to the branch of their track.

`write` and the rest are called by one thread (the reader); it waits where a branch is full.
"""

from __future__ import annotations

from collections.abc import Mapping

from media.packet import Gap, Packet
from media.track import Kind
from transcode.audio import AudioBranch
from transcode.inbox import Turn
from transcode.messages import Mark
from transcode.output import Output
from transcode.plan import Plan
from transcode.video import VideoBranch

Branch = VideoBranch | AudioBranch


class Pipeline:
    """Turns packets of source tracks into packets of the plan's renditions."""

    def __init__(self, plan: Plan, output: Output) -> None:
        self._plan = plan
        self._next: Plan | None = plan
        self._output = output
        self._branches: dict[int, Branch] = {}
        self._left: list[Branch] = []
        """Of tracks that the plan has no more: they hand over what they have."""
        self._turn: Turn | None = None
        self._skipped = 0
        self._viewers: dict[str, int] = {}

    def change(self, plan: Plan) -> None:
        """`plan` holds from the next cut on."""
        self._next = plan

    def watched(self, viewers: Mapping[str, int]) -> None:
        """How many watch which rendition."""
        self._viewers = dict(viewers)
        for branch in self._branches.values():
            if isinstance(branch, VideoBranch):
                branch.viewers = self._viewers

    def write(self, item: Packet | Gap) -> None:
        """One packet, or a gap for all branches."""
        if isinstance(item, Gap):
            for branch in self._branches.values():
                branch.inbox.put(item)
            return
        target = self._branches.get(item.track.id) or self._open(item)
        if target is None:
            self._skipped += 1
        else:
            target.inbox.put(item)

    def cut(self, mark: Mark) -> None:
        """A cut, in front of the packets that it concerns."""
        turn = Turn(mark, self._next)
        if self._next is not None:
            self._plan, self._next = self._next, None
        # A branch that opens later begins with the latest plan and cut.
        self._turn = Turn(mark, self._plan)
        for branch in self._branches.values():
            branch.inbox.put(turn)
        for track_id in self._branches.keys() - self._plan.tracks:
            # Nothing comes of that track any more, not even the picture that would bring the cut to its rungs.
            branch = self._branches.pop(track_id)
            branch.inbox.put(None)
            self._left.append(branch)
        for branch in [each for each in self._left if not each.is_alive()]:
            self._left.remove(branch)
            self._skipped += branch.units

    def close(self) -> None:
        """Finish everything: all packets are out when this returns."""
        for branch in self._branches.values():
            branch.inbox.put(None)
        for branch in (*self._left, *self._branches.values()):
            branch.join()

    def _open(self, packet: Packet) -> Branch | None:
        track = packet.track
        plan = self._next or self._plan
        if track.id not in plan.tracks | self._plan.tracks:
            return None
        branch: Branch
        if track.kind is Kind.VIDEO:
            branch = VideoBranch(track.id, self._plan, self._output, tuple(self._left))
            branch.viewers = self._viewers
        else:
            branch = AudioBranch(track.id, self._plan, self._output)
        if self._turn is not None:
            branch.inbox.put(self._turn)
        self._branches[track.id] = branch
        branch.start()
        return branch

    @property
    def units(self) -> int:
        """Packets worked off."""
        return self._skipped + sum(branch.units for branch in (*self._left, *list(self._branches.values())))

    def values(self) -> dict[str, float | str]:
        """Figures for `Progress`."""
        values: dict[str, float | str] = {}
        for branch in list(self._branches.values()):
            values |= branch.values()
        return values
