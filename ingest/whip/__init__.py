"""WHIP (RFC 9725): a browser or an encoder publishes over WebRTC after one HTTP request.

The way of a packet: `router` (HTTP) → `endpoint` (who may come in) → `session` (one peer, over aiortc) →
`aiortc_hooks` (encoded RTP instead of decoded frames) → `rtp` (order, loss, frames) → `lipsync` (one clock) →
`media` (frames → Packets) → the Publication.
"""
