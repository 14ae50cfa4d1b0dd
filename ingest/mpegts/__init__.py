"""MPEG-TS (ISO/IEC 13818-1), as encoders send it within SRT: a sans-IO demuxer.

bytes -> framer (packets) -> demuxer -> tables, programme (which streams) and pes -> video, audio -> events
"""
