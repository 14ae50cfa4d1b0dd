"""The tables: streams, their keys, the audit trail, and the nonces of publish tokens.

Times are integers, milliseconds since the Unix epoch. No column ever holds a key: only its hash.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The metadata that migrations are compared with."""


class Stream(Base):
    """What a viewer watches. It outlives broadcasts."""

    __tablename__ = "streams"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    playback_id: Mapped[str] = mapped_column(String(64), unique=True)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    rotated_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    """When the schedule last rotated the stream's keys; 0 for never."""


class Key(Base):
    """One credential for publishing. Kept after its end, so that a refusal can say why and the trail stays whole."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    stream_id: Mapped[str] = mapped_column(ForeignKey("streams.id", ondelete="CASCADE"), index=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    signing: Mapped[bool] = mapped_column(Boolean, default=False)
    """True for a key that only signs publish tokens and cannot publish itself."""
    once: Mapped[bool] = mapped_column(Boolean, default=False)
    label: Mapped[str] = mapped_column(String(128), default="")
    created_ms: Mapped[int] = mapped_column(BigInteger)
    expires_ms: Mapped[int | None] = mapped_column(BigInteger)
    revoked_ms: Mapped[int | None] = mapped_column(BigInteger)
    rotated: Mapped[bool] = mapped_column(Boolean, default=False)
    """True once a rotation has given it its end."""
    used_ms: Mapped[int | None] = mapped_column(BigInteger)
    """First use; what makes a single-use key spent."""
    last_used_ms: Mapped[int | None] = mapped_column(BigInteger)


class AuditEntry(Base):
    """One line of the trail: who did what to which key, never the key itself."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_stream_id_id", "stream_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    at_ms: Mapped[int] = mapped_column(BigInteger)
    action: Mapped[str] = mapped_column(String(24))
    reason: Mapped[str] = mapped_column(String(64), default="")
    stream_id: Mapped[str | None] = mapped_column(String(32))
    """Not a foreign key: the trail outlives the stream."""
    stream_name: Mapped[str] = mapped_column(String(64), default="")
    key_id: Mapped[str | None] = mapped_column(String(32))
    protocol: Mapped[str] = mapped_column(String(16), default="")
    address: Mapped[str] = mapped_column(String(64), default="")


class Nonce(Base):
    """A nonce of a publish token that was accepted; kept until the token would be refused anyway."""

    __tablename__ = "nonces"

    key_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    nonce: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_ms: Mapped[int] = mapped_column(BigInteger, index=True)


class Revision(Base):
    """One row whose number rises with every change of streams and keys: how other processes learn of it."""

    __tablename__ = "revision"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
