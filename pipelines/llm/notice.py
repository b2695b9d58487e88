"""Something changed: wakes all who wait for that."""

from __future__ import annotations

import asyncio


class Notice:
    """Like an event that resets itself. A waiter that looked at the facts before it waits misses nothing."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Wake everybody who waits now. From the event loop."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, within: float | None = None) -> bool:
        """Until the next `tell`: True, or False after `within` seconds."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(within):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True
