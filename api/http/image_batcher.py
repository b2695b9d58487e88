"""Pictures that are wanted together are drawn together: requests in, calls to the painter, an outcome for each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...actors.diffusion.picture import NotDrawn, Wish
from .batch_driver import BatchDriver
from .batching import Batch, BatchLimits
from .images_face import Drawn, Painter

Outcome = Drawn | NotDrawn


@dataclass(slots=True)
class _Waiting:
    """A request whose client waits."""

    wishes: Sequence[Wish]
    outcome: asyncio.Future[list[Outcome]]
    found: dict[int, Outcome] = field(default_factory=dict)

    def deliver(self, index: int, one: Outcome) -> None:
        """Take one picture; the last one completes the request."""
        self.found[index] = one
        if len(self.found) == len(self.wishes) and not self.outcome.done():
            self.outcome.set_result([self.found[place] for place in range(len(self.wishes))])

    def has(self, indices: Sequence[int]) -> bool:
        """Whether these pictures are there."""
        return all(index in self.found for index in indices)

    def fail(self, error: BaseException) -> None:
        """End the request with an error, if it has not ended yet."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Group:
    """What can be drawn in one call."""

    model_id: str
    width: int
    height: int
    steps: int | None


class ImageBatcher(BatchDriver[_Waiting]):
    """Pictures of one size by the same model share a call; a request for many is spread over several."""

    def __init__(self, painter: Painter, limits: BatchLimits) -> None:
        super().__init__(limits)
        self._painter = painter

    async def draw(self, model_id: str, wishes: Sequence[Wish], *, within: float) -> list[Outcome]:
        """A picture for each wish, in order; all wishes of one size and as many steps.

        Raises QueueFull at once when there is no room, DeadlineExceeded after `within` seconds, what the painter
        raises, and Unavailable after `close`. Cancelling gives up what is not drawn yet.
        """
        self._check_open()
        first = wishes[0]
        group = _Group(model_id, first.width, first.height, first.steps)
        ticket = self._queue.offer(group, [first.width * first.height] * len(wishes), self._now())
        request = _Waiting(wishes, asyncio.get_running_loop().create_future())
        await self._until_done(ticket, request, within)
        return request.outcome.result()

    async def _run(self, batch: Batch) -> None:
        """One call; what it raises is what each of its requests gets."""
        assert isinstance(batch.group, _Group)
        places = [(ticket, index) for ticket, part in batch.parts.items() if ticket in self._requests for index in part]
        if not places:
            return
        wishes = [self._requests[ticket].wishes[index] for ticket, index in places]
        try:
            found = await self._painter.draw(batch.group.model_id, wishes)
            if len(found) != len(wishes):
                raise RuntimeError(f"{len(wishes)} wishes gave {len(found)} pictures")
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the outcome of the requests
            for ticket in batch.parts:
                if ticket in self._requests:
                    self._requests[ticket].fail(error)
            return
        for (ticket, index), one in zip(places, found, strict=True):
            if ticket in self._requests:
                self._requests[ticket].deliver(index, one)
