"""Codec configurations and bitstream headers, as pure functions. Nothing here decodes a picture or a sound.

Each codec's module reads and writes its configuration record; `nal` knows the framings of H.264 and HEVC. Bad input
raises `media.errors.ProtocolError` and nothing else.
"""

from media.codecs.tracks import audio_track, codec_string, video_track
from media.codecs.units import Unit, four_byte_lengths, normalise_video

__all__ = ["Unit", "audio_track", "codec_string", "four_byte_lengths", "normalise_video", "video_track"]
