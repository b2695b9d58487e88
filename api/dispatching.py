"""`idlegrid dispatcher`: the process that brings jobs to workers, and the watchdog that ends it when it hangs."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from ..grid.config import Settings
from ..grid.peers import Role
from ..grid.secret import load_secret
from ..pipelines.dispatch.dispatcher import Dispatcher, Terms
from .signals import Say
from .storing import opened
from .tls import kept_fresh, speak_as

HUNG = 60.0
"""Seconds without a step after which the process ends, with its stacks on standard error. Nothing is lost by that."""
EX_TEMPFAIL = 75


async def serve_dispatcher(address: str, settings: Settings, stop: asyncio.Event, say: Say) -> None:
    """Dispatch for the grid at `address` until `stop`. Raises CannotStart, BadSecret."""
    speak_as(Role.API, settings)
    async with opened(settings, stop) as store, kept_fresh(settings, (Role.API, Role.API)):
        if store is None:
            return
        terms = Terms(
            secret=load_secret(settings.database.secret_file),
            api=settings.api.urls_for_workers,
            jobs=settings.jobs,
            heartbeat=settings.heartbeat_interval,
            share_prefixes=settings.api.share_prefixes,
        )
        dispatcher = Dispatcher(store, address, terms, say=say)
        watchdog(lambda: dispatcher.ticks)
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is told by us, in a line
        say(f"dispatching for {address}")
        await dispatcher.run(stop)


def watchdog(steps: Callable[[], int], hung: float = HUNG) -> threading.Thread:
    """End this process when `steps` has not changed for `hung` seconds: to be started again beats waiting for ever."""

    def watch() -> None:
        seen, since = steps(), time.monotonic()
        while True:
            time.sleep(hung / 10)
            now = time.monotonic()
            if (current := steps()) != seen:
                seen, since = current, now
            elif now - since > hung:
                print(f"idlegrid: nothing happened here for {hung:g} s: ending", file=sys.stderr)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(EX_TEMPFAIL)

    thread = threading.Thread(target=watch, name="idlegrid-watchdog", daemon=True)
    thread.start()
    return thread
