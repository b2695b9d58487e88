"""Revision 0005: files of clients, and batches of requests that are made from them, part by part."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

revision = "0005"
down_revision = "0004"

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "files",
        Column("id", NAME, primary_key=True),
        Column("client_id", NAME, nullable=False),
        Column("filename", sa.Text, nullable=False),
        Column("bytes", sa.BigInteger, nullable=False),
        Column("purpose", NAME, nullable=False),
        Column("sha256", NAME, nullable=False),
        Column("created_at", sa.BigInteger, nullable=False),
        Column("expires_at", sa.BigInteger),
    )
    op.create_index("ix_files_client", "files", ["client_id", "created_at", "id"])
    op.create_index("ix_files_expires", "files", ["expires_at"])
    op.create_table(
        "batches",
        Column("id", NAME, primary_key=True),
        Column("client_id", NAME, nullable=False),
        Column("endpoint", NAME, nullable=False),
        Column("input_file_id", NAME, nullable=False),
        Column("status", NAME, nullable=False),
        Column("created_at", sa.BigInteger, nullable=False),
        Column("expires_at", sa.BigInteger, nullable=False),
        Column("instants", sa.Text, nullable=False),
        Column("total", sa.Integer, nullable=False),
        Column("completed", sa.Integer, nullable=False),
        Column("failed", sa.Integer, nullable=False),
        Column("output_file_id", NAME),
        Column("error_file_id", NAME),
        Column("errors", sa.Text),
        Column("metadata", sa.Text),
        Column("fence", sa.BigInteger, nullable=False),
        Column("holder", NAME),
        Column("lease_until", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_batches_client", "batches", ["client_id", "created_at", "id"])
    op.create_index("ix_batches_status", "batches", ["status", "created_at"])
    op.create_table(
        "batch_parts",
        Column("batch_id", NAME, sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        Column("part", sa.Integer, primary_key=True),
        Column("fence", sa.BigInteger, nullable=False),
        Column("completed", sa.Integer, nullable=False),
        Column("failed", sa.Integer, nullable=False),
    )
