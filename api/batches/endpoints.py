"""How the requests of a batch are computed: what an endpoint promises, and patience with a grid that is busy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from ..http.batch_driver import DeadlineExceeded
from ..http.batching import QueueFull
from ..http.embedder import BadInput, Unavailable
from ..http.errors import ApiError, from_batcher, internal_error
from .lines import Line, Outcome

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
"""Seconds between two tries of a request that the grid can't take now."""
TRIES = 3
"""Of a request at which the service itself fails."""
BUSY = frozenset({429, 503, 504})
"""The request is fine, the grid is not: it is tried again until the batch's window ends."""


class Endpoint(Protocol):
    """Computes requests in the background: with what others leave over."""

    part_lines: int
    """Requests in one part: what is lost at most when the process is killed."""
    parts_at_once: int

    def weigh(self, body: Mapping[str, Any]) -> int:
        """How much a request is, for the size of parts: its inputs. `body` was not checked."""
        ...

    async def compute(self, lines: Sequence[Line]) -> Sequence[Outcome]:
        """What became of each. Cancelling it gives the work up. Raises nothing else: a request that fails has an
        outcome that says so, and one that can't be taken now waits."""
        ...


async def patiently(compute: Callable[[], Awaitable[bytes]]) -> Outcome:
    """The outcome of one request, tried again as long as the grid is busy or away."""
    pause, failures = FIRST_PAUSE, 0
    while True:
        error = await _tried(compute)
        if isinstance(error, bytes):
            return Outcome(200, error)
        if error.status not in BUSY:
            failures += error.status >= 500
            if error.status < 500 or failures >= TRIES:
                return Outcome(error.status, bytes(error.response().body))
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)


async def _tried(compute: Callable[[], Awaitable[bytes]]) -> bytes | ApiError:
    try:
        return await compute()
    except ApiError as error:
        return error
    except (QueueFull, DeadlineExceeded, Unavailable, BadInput) as error:
        return from_batcher(error)
    except Exception:
        logger.exception("a request of a batch failed")
        return internal_error()
