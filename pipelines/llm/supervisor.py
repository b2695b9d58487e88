"""Keeps one deployment as it is wanted: looks at its replicas, asks the rules, does what they say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from .chain_replica import ChainReplica
from .deployment import Deployment, Phase, Replica
from .lack import Lacking
from .link import GridLink
from .notice import Notice
from .reconcile import Patience, Place, Setbacks, reconcile
from .replica import LiveReplica

logger = logging.getLogger(__name__)

AnyReplica = LiveReplica | ChainReplica
"""Whole on one donor, or in stages."""
LOOK_EVERY = 0.5
"""Seconds between two looks when nothing is told: for what only time changes."""
ASK_WHY_AFTER = 1.0
"""Seconds that a placement may wait before the scheduler is asked why; then as often."""


class Supervisor:
    """Belongs to one event loop. `start` it; its replicas end with `close`."""

    def __init__(
        self,
        deployment: Deployment,
        link: GridLink,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deployment = deployment
        self.changed = Notice()
        """Told whenever a replica may have come, gone or changed."""
        self.closed = False
        """No replica will come any more."""
        self.last_end = ""
        """Why the last replica that ended did."""
        self._link, self._patience, self._clock = link, patience or Patience(), clock
        self._replicas: dict[int, AnyReplica] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._setbacks = Setbacks()
        self._epochs = int(time.time() * 1e3)  # higher than those of a service that ran here before
        self._asked_why = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after it."""
        self._task = asyncio.create_task(self._run(), name=f"idlegrid-supervisor {self.deployment.model}")

    def scale(self, replicas: int) -> None:
        """Want another number of replicas from now on."""
        self.deployment = replace(self.deployment, replicas=replicas)
        self._wake.set()

    def replicas(self) -> list[AnyReplica]:
        """Those that are there, oldest first."""
        return list(self._replicas.values())

    def views(self) -> list[Replica]:
        """The same, as the rules see them."""
        now = self._clock()
        return [one.view(now) for one in self._replicas.values()]

    @property
    def lacking(self) -> Lacking | None:
        """No replica serves, and none is on its way: there are no donors that could hold its stages now. Else None."""
        told = [one.lacking if isinstance(one, ChainReplica) else None for one in self._replicas.values()]
        each = [one for one in told if one is not None]
        if not each or len(each) < len(told):
            return None
        return max(each, key=lambda one: (bool(one.awaited), one.since))

    def why(self) -> str:
        """Why fewer replicas serve than are wanted, in a sentence; empty when all do."""
        if self.closed:
            return f"{self.deployment.model} is not served any more"
        views = self.views()
        ready = sum(one.phase is Phase.READY for one in views)
        if ready >= self.deployment.replicas:
            return ""
        told = [f"{ready} of {self.deployment.replicas} replicas of {self.deployment.model} serve"]
        told += [f"one is {one.phase}{f' ({one.why})' if one.why else ''}" for one in views if one.phase in _COMING]
        if self.last_end:
            told.append(f"the last one to end: {self.last_end}")
        wait = self._setbacks.next_try(self._patience) - self._clock()
        if wait > 0:
            told.append(f"the next is tried in {wait:.0f} s")
        return "; ".join(told)

    async def close(self) -> None:
        """End all replicas and stop looking after them. Idempotent."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for epoch in list(self._replicas):
            self._retire(epoch, "the deployment was closed")
        await asyncio.gather(*self._retiring, return_exceptions=True)
        self.changed.tell()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._reconcile()
                await self._ask_why()
            except Exception:  # the next look may find the world in order again
                logger.exception("looking after %s failed", self.deployment.model)
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _reconcile(self) -> None:
        decision = reconcile(self.deployment, self.views(), self._setbacks, self._clock(), self._patience)
        self._setbacks = decision.setbacks
        for action in decision.actions:
            if isinstance(action, Place):
                self._place(action)
            else:
                self._retire(action.epoch, action.why)
                self.last_end = action.why if action.setback else self.last_end

    def _place(self, action: Place) -> None:
        self._epochs += 1
        logger.info("placing replica %d of %s: %s", self._epochs, self.deployment.model, action.why)
        kind = ChainReplica if self.deployment.split else LiveReplica
        self._replicas[self._epochs] = kind(
            self.deployment, self._epochs, action.excluded, self._link, self._patience, self._told
        )

    def _retire(self, epoch: int, why: str) -> None:
        """From now on it gets no request; the cleaning up goes on beside."""
        replica = self._replicas.pop(epoch)
        logger.info("retiring replica %d of %s: %s", epoch, self.deployment.model, why)
        task = asyncio.create_task(replica.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _ask_why(self) -> None:
        now = self._clock()
        waiting = [one for one in self.views() if one.phase is Phase.PLACING and now - one.since > ASK_WHY_AFTER]
        if not waiting or now - self._asked_why < ASK_WHY_AFTER:
            return
        self._asked_why = now
        await asyncio.gather(*(self._replicas[one.epoch].ask_why() for one in waiting))

    def _told(self) -> None:
        self._wake.set()
        self.changed.tell()


_COMING = (Phase.PLACING, Phase.LOADING)
