"""Streams, keys, the audit trail, nonces and the revision counter."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "streams",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("playback_id", sa.String(64), nullable=False, unique=True),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("rotated_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("stream_id", sa.String(32), sa.ForeignKey("streams.id", ondelete="CASCADE"), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("signing", sa.Boolean(), nullable=False),
        sa.Column("once", sa.Boolean(), nullable=False),
        sa.Column("label", sa.String(128), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger()),
        sa.Column("revoked_ms", sa.BigInteger()),
        sa.Column("rotated", sa.Boolean(), nullable=False),
        sa.Column("used_ms", sa.BigInteger()),
        sa.Column("last_used_ms", sa.BigInteger()),
    )
    op.create_index("ix_keys_stream_id", "keys", ["stream_id"])
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(24), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("stream_id", sa.String(32)),
        sa.Column("stream_name", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(32)),
        sa.Column("protocol", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
    )
    op.create_index("ix_audit_stream_id_id", "audit", ["stream_id", "id"])
    op.create_table(
        "nonces",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("nonce", sa.String(64), primary_key=True),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_nonces_expires_ms", "nonces", ["expires_ms"])
    revision_table = op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(revision_table, [{"id": 1, "number": 0}])


def downgrade() -> None:
    for table in ("revision", "nonces", "audit", "keys", "streams"):
        op.drop_table(table)
