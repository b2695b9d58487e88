"""Revision 0004: deployments of language models, and leases of processes that do what only one may do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

revision = "0004"
down_revision = "0003"

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "deployments",
        Column("model", NAME, primary_key=True),
        Column("spec", sa.Text, nullable=False),
        Column("wanted", sa.Boolean, nullable=False),
        Column("version", sa.Integer, nullable=False),
        Column("created_at", sa.BigInteger, nullable=False),
        Column("updated_at", sa.BigInteger, nullable=False),
        Column("actor", sa.Text, nullable=False),
        Column("report", sa.Text),
        Column("reported_at", sa.BigInteger),
    )
    op.create_table(
        "leases",
        Column("name", NAME, primary_key=True),
        Column("holder", NAME, nullable=False),
        Column("place", sa.Text),
        Column("fence", sa.BigInteger, nullable=False),
        Column("until", sa.BigInteger, nullable=False),
    )
