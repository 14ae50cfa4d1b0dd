"""Whether a viewer may see a stream: rules first, then tokens. Asked for each request, answered without asking anyone.

Neither enters the cache key: what one viewer fetched is in the cache for the next, who is asked the same questions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edge.request import Request
from edge.revocation import Revocations
from edge.rules import Rules
from edge.settings import EdgeSettings

if TYPE_CHECKING:
    from edge.tokens import TokenGuard


class Grant:
    """What one connection may ask again for a moment without being looked at anew.

    It holds for the same viewer in every respect that tokens and rules know: address (the connection's), token,
    header fields (the very same, as `edge.heads` remembers them), stream. `Access.changed` ends it.
    """

    __slots__ = ("_headers", "_prefix", "_token", "until")

    def __init__(self, asked: Request, until: float) -> None:
        """For the stream of `asked`; `until` is on the loop's clock."""
        self._token, self._headers = asked.token, asked.headers
        self._prefix = f"/live/{asked.path.split('/', 3)[2]}/"
        self.until = until

    @classmethod
    def make(cls, asked: Request, until: float) -> Grant | None:
        """None for what is no stream's: nobody is refused there, so that nothing was granted."""
        return cls(asked, until) if asked.ordinary and asked.path.startswith("/live/") else None

    def covers(self, asked: Request) -> bool:
        """Whether `asked` is another of those requests; the time is for the caller to look at."""
        return (
            asked.ordinary
            and asked.headers is self._headers
            and asked.token == self._token
            and asked.key.startswith(self._prefix)
        )


class Access:
    """Everything that may refuse a viewer. One per worker."""

    def __init__(self, tokens: TokenGuard | None, rules: Rules | None) -> None:
        self.tokens, self.rules = tokens, rules
        self.changed: Callable[[], None] = _nothing
        """Called when what was granted may be so no more."""

    @classmethod
    def make(cls, settings: EdgeSettings, revoked: Revocations) -> Access | None:
        """What the settings ask for; None where everything is public."""
        tokens = rules = None
        if settings.token_keys is not None:
            from edge.tokens import TokenGuard  # a fifth of a worker's imports, for those who want tokens

            bits = settings.token_ipv4_bits, settings.token_ipv6_bits
            tokens = TokenGuard(settings.token_keys, required=settings.token_required, prefixes=bits)
            tokens.revoked = revoked
        if settings.access_rules is not None:
            rules = Rules(settings.access_rules, settings.country_addresses, settings.country_header)
        return cls(tokens, rules) if tokens is not None or rules is not None else None

    def refuse(self, asked: Request, address: str, *, trusted: bool) -> tuple[int, str] | None:
        """Status and slug of a refusal; None where the viewer at `address` may go on. `trusted`: see `Rules.refuse`."""
        if asked.method == "OPTIONS":
            return None  # a browser asks without its token whether it may ask with it (Fetch, CORS preflight)
        if self.rules is not None and (found := self.rules.refuse(asked, address, trusted=trusted)) is not None:
            return found
        return self.tokens.refuse(asked, address) if self.tokens is not None else None

    def lasts_s(self, asked: Request) -> float:
        """For how many seconds at least a request that was not refused will not be, if nothing changes."""
        return self.tokens.lasts_s(asked.token) if self.tokens is not None else float("inf")

    def revoke(self, revoked: Revocations) -> None:
        """From here on this list holds."""
        if self.tokens is not None:
            self.tokens.revoked = revoked
            self.changed()

    def reload(self) -> None:
        """Look whether keys or rules have changed. Every few seconds."""
        tokens = self.tokens is not None and self.tokens.reload()
        rules = self.rules is not None and self.rules.reload()
        if tokens or rules:
            self.changed()


def _nothing() -> None:
    pass
