"""What the edge's own errors say to a person. The slug in the first line is for programs, and stays as it is."""

from __future__ import annotations

_WORDS = {
    "token_missing": "This stream wants a link with a viewer token. Ask whoever invited you for it.",
    "token_bad": "The viewer token is not one of ours: the link may be cut short. Copy the whole of it.",
    "token_expired": "The viewer token has expired, or does not count yet. Ask for a new link.",
    "token_revoked": "The viewer token has been withdrawn. Ask for a new link.",
    "token_for_another_stream": "The viewer token is for another stream.",
    "token_for_another_address": "The viewer token counts only in the network that it was made for.",
    "address_denied": "Your address may not see this stream.",
    "address_not_allowed": "This stream is only for certain networks, and your address is in none of them.",
    "country_not_allowed": "This stream may not be shown in your country.",
    "site_not_allowed": "This stream may not be shown on that page. Open the stream's own page.",
    "access_rules_unreadable": "The edge cannot read its access rules, so that it lets nobody in; its log says why.",
    "loop_detected": "The request has been here before: edges ask each other, or two of them have the same edge.name.",
    "too_many_requests": "Too many requests came from your address. Try again in a moment.",
    "too_many_connections_from_address": "Too many connections are open from your address.",
    "too_many_connections": "The server is full. Try again in a moment.",
    "origin_unreachable": "The server that the stream comes from cannot be reached now.",
    "origin_silent": "The server that the stream comes from did not answer in time.",
}


def body(status: int, slug: str) -> bytes:
    """An error's plain text."""
    words = _WORDS.get(slug, "")
    return f"{status} {slug}\n{words}\n".encode() if words else f"{status} {slug}\n".encode()
