"""Workers without a grid: small processes over the store alone, started in a moment, frozen and killed by tests.

``URL frozen PROTECTION``, ``URL deadly PROTECTION MOST``. PROTECTION is ``on``, or ``off`` for the control.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
import uuid
from pathlib import Path

from idlegrid.api.parent import tie_to_parent
from idlegrid.grid import job_rules
from idlegrid.grid.store import Claim, Stale, Store, open_store, postgres

TYPE = "light"
CHECKED = (
    f"SELECT jobs.id FROM jobs JOIN input USING (id, fence, worker_id, incarnation)\n  WHERE {postgres.IS_RUNNING}"
)
TRUSTED = "SELECT jobs.id, input.fence, input.worker_id, input.incarnation FROM jobs JOIN input USING (id)"
KEPT = "SET status = 'completed',"
TAKEN = f"{KEPT} fence = held.fence, worker_id = held.worker_id, incarnation = held.incarnation,"


def without_fence() -> None:
    """Whoever says that a job is done is believed, whatever its fence."""
    assert CHECKED in postgres.COMPLETE
    assert KEPT in postgres.COMPLETE
    postgres.COMPLETE = postgres.COMPLETE.replace(CHECKED, TRUSTED).replace(KEPT, TAKEN)


def claim(store: Store, name: str, lease: float) -> Claim | None:
    """A job, begun."""
    claims = store.jobs.claim(types=[TYPE], limit=1, lease=lease, holder=name, bind=(name, uuid.uuid4().hex))
    return claims[0] if claims else None


def complete(store: Store, claim: Claim) -> bool:
    """Whether the grid took the result."""
    job, by = claim.job, claim.job.worker_id
    try:
        store.jobs.complete(
            job.id,
            claim.fence,
            worker_id=str(by),
            incarnation=str(job.incarnation),
            result={"by": by},
            usage={"tokens": 1},
            seconds=0.0,
        )
    except Stale:
        return False
    return True


def frozen(url: str) -> None:
    """Takes a job, says so, and completes it when it is told to; it may be frozen until then."""
    with open_store(url, pool_size=2) as store:
        held = claim(store, "frozen", lease=0.5)
        assert held is not None
        print(held.job.id, flush=True)
        sys.stdin.readline()
        print("taken" if complete(store, held) else "refused", flush=True)


def deadly(url: str, most: int) -> None:
    """Processes that do jobs, one of which kills whoever does it, for a donor each; until nothing is left to do, or so
    many have died. Prints who died.
    """
    died: list[str] = []
    while len(died) < most:
        name = f"donor-{len(died)}"
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            life(url, name, write)
        _, status = os.waitpid(pid, 0)
        os.close(write)
        said = os.read(read, 1 << 16).decode().splitlines()
        os.close(read)
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGSEGV
        died.append(name)
        report_death(url, name, json.loads(said[-1]))
    print(json.dumps(died), flush=True)


def life(url: str, name: str, say: int) -> None:
    """One process: says what it begins, and may die of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    store = open_store(url, pool_size=1)
    while (held := claim(store, name, lease=60)) is not None:
        os.write(say, (json.dumps([held.job.id, held.fence, held.job.incarnation]) + "\n").encode())
        if held.job.params.get("deadly"):
            ctypes.string_at(0)
        complete(store, held)
    os._exit(0)


def report_death(url: str, name: str, last: list[object]) -> None:
    """What the next process of a donor tells of the one that died."""
    job_id, fence, incarnation = last
    with open_store(url, pool_size=1) as store:
        store.jobs.fail(
            str(job_id),
            int(str(fence)),
            code="worker_died",
            message="the worker's process died",
            retry=True,
            death=True,
            worker_id=name,
            incarnation=str(incarnation),
            max_attempts=100,
        )


def computes(folder: Path) -> int:
    """A task of stock Dask: notes that it began and that it is done; its result goes to whoever holds the future."""
    (folder / "begun").touch()
    time.sleep(4)
    (folder / "done").touch()
    return 42


def main() -> None:
    tie_to_parent()
    url, what, protection, *more = sys.argv[1:]
    if what == "frozen":
        if protection == "off":
            without_fence()
        frozen(url)
    else:
        if protection == "off":
            job_rules.POISON_DEATHS = 10**9
        deadly(url, int(more[0]))


if __name__ == "__main__":
    main()
