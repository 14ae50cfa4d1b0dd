"""What the packager needs from whoever composes it: which presentation a playback id stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from packager.presentation import Presentation


class Directory(Protocol):
    """Looks a viewer's path up."""

    def presentation(self, playback_id: str) -> Presentation | None:
        """The presentation that is live or kept under this playback id; None if unknown or never on air."""
        ...
