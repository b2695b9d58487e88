"""What several tests of the store do."""

from __future__ import annotations

from idlegrid.grid.store import Claim, Store
from idlegrid.grid.store.database import psycopg_style
from idlegrid.grid.store.hot import LANES
from idlegrid.grid.store.postgres import CLAIMS

INSTANTS = ("created_at", "due_at", "not_before", "started_at", "deadline", "completed_at", "lease_until")


def pass_time(store: Store, seconds: float) -> None:
    """Let `seconds` go by for all jobs: what was noted of them moves into the past. Nobody waits."""
    moved = ", ".join(f"{name} = {name} - :by" for name in INSTANTS)
    with store._database.write() as session:
        session.run(f"UPDATE jobs SET {moved}", {"by": round(seconds * 1_000_000)})


def claim_one(store: Store, job_id: str, *, lease: float = 30.0) -> Claim:
    """Claim this job, which must be claimable."""
    [claim] = store.jobs.claim(types=["noop"], limit=1, lease=lease, holder="d", only=job_id)
    return claim


def plan_of_claim(store: Store) -> str:
    """How PostgreSQL did a claim of one job, which is taken back."""
    values = {"types": ["noop", "llm"], "lanes": LANES, "limit": 1, "lease_us": 1, "holder": "d", "only": None}
    with store._database.read() as session:
        session.connection.exec_driver_sql("BEGIN")
        statement = "EXPLAIN (ANALYZE, BUFFERS) " + psycopg_style(CLAIMS[False, False])
        lines = session.connection.exec_driver_sql(statement, values).scalars().all()
        session.connection.exec_driver_sql("ROLLBACK")
    return "\n".join(lines)
