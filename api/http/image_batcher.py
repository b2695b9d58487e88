"""Pictures that are wanted together are drawn together: requests in, calls to the painter, an outcome for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...actors.diffusion.picture import NotDrawn, Wish
from .batch_driver import BatchDriver
from .batching import Batch, BatchLimits
from .images_face import Drawn, Painter

Outcome = Drawn | NotDrawn


@dataclass(frozen=True, slots=True)
class _Group:
    """What can be drawn in one call."""

    model_id: str
    width: int
    height: int
    steps: int | None


class ImageBatcher(BatchDriver[Wish, Outcome]):
    """Pictures of one size by the same model share a call; a request for many is spread over several."""

    def __init__(self, painter: Painter, limits: BatchLimits) -> None:
        super().__init__(limits)
        self._painter = painter

    async def draw(self, model_id: str, wishes: Sequence[Wish], *, within: float) -> list[Outcome]:
        """A picture for each wish, in order; all wishes of one size and as many steps. Raises as `BatchDriver` says."""
        first = wishes[0]
        group = _Group(model_id, first.width, first.height, first.steps)
        return await self._outcomes(group, wishes, [first.width * first.height] * len(wishes), within)

    async def _run(self, batch: Batch) -> None:
        """One call; what it raises is what each of its requests gets."""
        group = batch.group
        assert isinstance(group, _Group)
        try:
            await self._share_out(batch.parts, lambda wishes: self._painter.draw(group.model_id, wishes))
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the outcome of the requests
            self._fail(batch.parts, error)
