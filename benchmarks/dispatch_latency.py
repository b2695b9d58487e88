#!/usr/bin/env python3
"""How long a job takes from `GridClient.submit` to its result in the client's hands, on an idle grid, stage by stage.

`idlegrid up --workers 1` serves on loopback with its embedded database (or `--database URL`). One client submits
embeddings of one short text with real MiniLM weights, one after the other, at irregular distances so that no stage's
rhythm is met by chance, and waits for each. Instants are of this machine's clock: the database's, the client's.

- **accept**: `submit` called → its answer is there (HTTP, COMMIT)
- **claim**: accepted in the database → claimed by the dispatcher; it may begin before `submit` has returned
- **dask**: claimed → begun, as the database has it: dispatcher → scheduler → worker → `progress` door
- **run**: the job type's own time, as the worker measured it
- **complete**: begun → completed, less `run`: the rest of the worker's way, with the COMMIT of the result
- **notice**: completed in the database → `wait` has returned with the result (event, then the job)

The stages after `accept` follow each other; `total` is less than the sum of all by what `accept` needs to come back.
`one_call` is the total of `GridClient.embed`, which waits with one request. The last line is one JSON object. It takes
a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from whole_grid import whole_grid

from idlegrid.api import GridClient

TEXT, MODEL, DIMENSIONS = "a lease", "all-MiniLM-L6-v2", 8
PARAMS = {"model": MODEL, "texts": [TEXT], "dimensions": DIMENSIONS}
STAGES = ("accept", "claim", "dask", "run", "complete", "notice", "total")
WARM_UP = 10


@dataclass(frozen=True)
class Trip:
    """One job, as its client saw it; seconds since the epoch."""

    job_id: str
    submitted: float
    accepted: float
    """`submit` returned."""
    arrived: float
    """`wait` returned."""


def grid(folder: Path, database: str) -> AbstractContextManager[tuple[str, str]]:
    """`idlegrid up` with one worker."""
    return whole_grid(folder, "--workers", "1", IDLEGRID_DATABASE_URL=database, OMP_NUM_THREADS="1")


def travel(client: GridClient, chance: random.Random) -> Trip:
    """Submit one job and wait for it."""
    time.sleep(chance.uniform(0.02, 0.12))
    submitted = time.time()
    job = client.submit("embedding", PARAMS)
    accepted = time.time()
    done = client.wait(job, timeout=60)
    arrived = time.time()
    if done.result is None:
        raise RuntimeError(f"{done}")
    return Trip(job.id, submitted, accepted, arrived)


def at_once(client: GridClient, chance: random.Random) -> float:
    """Seconds of one call that waits for its result."""
    time.sleep(chance.uniform(0.02, 0.12))
    begun = time.perf_counter()
    client.embed(TEXT, model=MODEL, dimensions=DIMENSIONS)
    return time.perf_counter() - begun


def stages(trip: Trip, row: Any) -> dict[str, float]:
    """Seconds of each stage; `row` has the database's instants in µs."""
    created, claimed, begun, ended = (row[name] / 1e6 for name in ("created_at", "claimed_at", "begun_at", "ended_at"))
    return {
        "accept": trip.accepted - trip.submitted,
        "claim": claimed - created,
        "dask": begun - claimed,
        "run": row["seconds"],
        "complete": ended - begun - row["seconds"],
        "notice": trip.arrived - ended,
        "total": trip.arrived - trip.submitted,
    }


def rows(database: str) -> dict[str, Any]:
    """What the database knows of each completed job, by its id."""
    query = """SELECT jobs.id, created_at, claimed_at, begun_at, ended_at, seconds FROM jobs
        JOIN attempts ON attempts.job_id = jobs.id AND attempts.fence = jobs.fence JOIN usage ON usage.job_id = jobs.id
        WHERE status = 'completed' AND attempts.fence = 1"""
    engine = create_engine(database)
    with engine.connect() as connection:
        found = {row["id"]: row for row in connection.execute(text(query)).mappings()}
    engine.dispose()
    return found


def told(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in ms."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"p50_ms": round(statistics.median(ordered) * 1e3, 2), "p99_ms": round(p99 * 1e3, 2)}


def measure(jobs: int, database: str | None) -> dict[str, Any]:
    """Everything, as one document."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="idlegrid-benchmark-") as folder:
        where = database or f"sqlite:///{folder}/jobs.db"
        with grid(Path(folder), where) as (url, _), GridClient(url) as client:
            for _ in range(WARM_UP):
                travel(client, chance)
                at_once(client, chance)
            trips = [travel(client, chance) for _ in range(jobs)]
            calls = [at_once(client, chance) for _ in range(jobs)]
        known = rows(where)
    split = [stages(trip, known[trip.job_id]) for trip in trips if trip.job_id in known]
    return {
        **{stage: told([one[stage] for one in split]) for stage in STAGES},
        "one_call": told(calls),
        "jobs": len(split),
        "retried": len(trips) - len(split),
        "database": "postgresql" if where.startswith("postgres") else "sqlite",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--database", metavar="URL", help="an empty one; without it a fresh SQLite file")
    options = parser.parse_args(argv)
    begun = time.monotonic()
    found = measure(options.jobs, options.database)
    for stage in (*STAGES, "one_call"):
        print(
            f"{stage:<9} p50 {found[stage]['p50_ms']:8.2f} ms   p99 {found[stage]['p99_ms']:8.2f} ms", file=sys.stderr
        )
    print(json.dumps({**found, "seconds": round(time.monotonic() - begun, 1)}))


if __name__ == "__main__":
    main()
