"""One worker process that asks for its jobs over HTTP. Supervised: a job that ends it, ends nothing else.

``python -m idlegrid.api.pull_process URL…``; who it is, what opens the door, and where its agent gives its orders
(`donor.orders`), stand in its environment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

from .parent import tie_to_parent

TOKEN = "IDLEGRID_API_WORKER_TOKEN"  # noqa: S105 - the variable's name
SPOOL_PATIENCE = 5.0
"""Seconds that a worker which leaves takes to deliver what is in its spool; the rest stays on disk."""
PARTING = 2.0
"""Seconds after which an idle worker does not wait for the answer to its last question any more."""
REFUSED = 1


def main(urls: Sequence[str] | None = None) -> None:
    """Entry point. Ends with code 0, or 1 when the service gives this worker nothing; says why on standard error."""
    tie_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which says SIGTERM in its own time
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    code = _work(tuple(sys.argv[1:] if urls is None else urls), stop)
    sys.stdout.flush()
    os._exit(code)


def _work(urls: tuple[str, ...], stop: threading.Event) -> int:
    from ..pipelines.dispatch.desk import desk
    from ..pipelines.dispatch.pull import Puller
    from ..scheduler_plugins.machine import local_donor
    from .donor.direct_places import open_direct
    from .donor.hands import PullHands
    from .donor.orders import taker
    from .donor.warming import warm

    donor = local_donor(None)
    own = desk(donor.id)  # what an earlier process left is told now
    warm(stop.is_set)
    puller = Puller(donor, urls, os.environ.get(TOKEN, ""), own)
    if (taken := taker(PullHands(own, puller.slots))) is not None:
        own.on_change(taken.changed)
    asking = threading.Thread(target=puller.ask_until, args=(stop,), daemon=True)
    asking.start()
    print(f"{donor.name} asks {urls[0]} for work in {donor.region}", flush=True)
    open_direct(own, puller.slots)
    while asking.is_alive() and not stop.wait(0.2):
        pass
    own.finish(None)
    asking.join(PARTING)
    own.spool.flush(SPOOL_PATIENCE)
    if puller.refused is not None:
        print(f"error: {puller.refused}", file=sys.stderr, flush=True)
        return REFUSED
    return 0


if __name__ == "__main__":
    main()
