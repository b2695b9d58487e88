"""Finding donors for the stages of one chain, and loading them there: by the rules of placement and of layers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError as TaskCancelled
from dataclasses import replace
from typing import Any

import dask

from ...actors.models import ModelNotFound
from ...actors.serving.engines import usual_dtype
from ...actors.serving.shard_words import ShardSpec
from ...actors.shards.leg import Pace
from ...grid.layers.replanning import Hysteresis
from ...grid.layers.shape import LayerRange
from .chain_plan import Cut, Part, Split, better, cut
from .deployment import Deployment
from .donor_facts import Facts, Needs, facts
from .link import GridLink
from .live_stage import LiveStage, StageLost, StageRefused
from .model_shape import Sizes, configuration, sizes_of
from .reconcile import Patience

logger = logging.getLogger(__name__)

TRIES = 3
"""So often donors are chosen for the same layers, each time without those that failed."""


class Uncovered(Exception):
    """Nobody can take some layers now; the message says which, and what memory would suffice."""


class Staging:
    """Of one replica of a deployment. Belongs to one event loop."""

    def __init__(self, deployment: Deployment, excluded: frozenset[str], link: GridLink, patience: Patience) -> None:
        """`excluded`: donors that get no stage."""
        self.coming: list[LiveStage] = []
        """Stages that are being placed or loaded."""
        self.pace = Pace(silence=patience.hop, patience=patience.hop)
        self._deployment, self._excluded, self._link, self._patience = deployment, excluded, link, patience
        self._split = Split(deployment.stages or 0, deployment.layers)
        self._sizes: Sizes | None = None
        self._config: Mapping[str, Any] = {}
        self._failed = ""
        self._shunned: dict[str, tuple[int, float]] = {}

    @property
    def sizes(self) -> Sizes | None:
        """What the stages agree on; None before `measure`."""
        return self._sizes

    async def measure(self) -> Sizes:
        """Read the model's configuration: here, or on a donor where it is not here. Raises NoShape and ModelNotFound,
        and what Dask does."""
        if self._sizes is None:
            source = self._deployment.spec().model
            try:
                config = await asyncio.to_thread(configuration, source)
            except ModelNotFound:
                client = await self._link.client()
                with dask.annotate(grid=self._deployment.stage_ask(self._excluded, seconds=0.0).to_annotation()):
                    config = await client.submit(configuration, source, pure=False)
            self._config, self._sizes = config, sizes_of(self._deployment, config)
        return self._sizes

    async def _settle(self, known: Facts) -> None:
        """What ``auto`` means as dtype, once for all stages: what the best of these donors would compute a whole model
        in. Raises Uncovered."""
        deployment = self._deployment
        if deployment.dtype != "auto" or not known.offers:
            return
        best = max(known.offers, key=lambda one: one.score)
        client = await self._link.client()
        try:
            with dask.annotate(grid=deployment.stage_ask(self._excluded, seconds=0.0).to_annotation()):
                asked = client.submit(
                    usual_dtype, deployment.device, pure=False, workers=[best.address], allow_other_workers=False
                )
            async with asyncio.timeout(self._patience.start):
                dtype: str = await asked
        except (OSError, TimeoutError, TaskCancelled) as error:
            raise Uncovered(
                f"{best.donor.id} did not say what it computes in: {error or type(error).__name__}"
            ) from error
        self._deployment = replace(deployment, dtype=dtype)
        self._sizes = sizes_of(self._deployment, self._config)

    def shun(self, donor_id: str, why: str) -> None:
        """A stage failed there: the donor is avoided for a while, each further time twice as long."""
        logger.warning("a stage of %s was lost: %s", self._deployment.model, why)
        times = self._shunned.get(donor_id, (0, 0.0))[0] + 1
        cool = min(self._patience.cool_most, self._patience.cool * 2.0 ** min(times - 1, 30))
        self._shunned[donor_id] = (times, time.monotonic() + cool)
        self._failed = why

    async def facts(self, taken: frozenset[str] = frozenset()) -> Facts:
        """The donors now; those of `taken`, and those that failed lately, offer nothing. Raises Uncovered."""
        sizes = await self.measure()
        now = time.monotonic()
        shunned = {donor for donor, (_, until) in self._shunned.items() if now < until}
        ask = self._deployment.stage_ask(self._excluded | taken | shunned, seconds=2 * self._patience.notice)
        key = f"{self._deployment.model} {id(self)}"
        needs = Needs(sizes.capacity.model.layer_bytes, self._deployment.device, self._deployment.region)
        try:
            return await facts(self._link, ask, key, needs)
        except (OSError, TimeoutError) as error:
            raise Uncovered(f"the scheduler can't be asked for donors: {error or type(error).__name__}") from error

    async def cover(self, gap: range | None, taken: frozenset[str]) -> list[LiveStage]:
        """Loaded stages for these layers (None: for all), on donors that are not in `taken`. Raises Uncovered; then
        nothing that was loaded for it is left."""
        gap = range((await self.measure()).num_layers) if gap is None else gap
        found: list[LiveStage] = []
        try:
            for _ in range(TRIES):
                for hole in holes(gap, found):
                    known = await self.facts(taken | {one.donor_id for one in found})
                    await self._settle(known)
                    found += await self._load(self._plan(await self.measure(), known, hole))
                if not holes(gap, found):
                    return sorted(found, key=lambda one: one.layers.start)
            raise Uncovered(self._failed)
        except BaseException:
            await asyncio.gather(*(one.release() for one in found))
            raise

    def _plan(self, sizes: Sizes, known: Facts, gap: range) -> Sequence[Part]:
        found = cut(sizes.capacity, known.offers, self._split, gap)
        if not found:
            raise Uncovered(found.why + (f"; lately failed: {self._failed}" if self._failed else ""))
        return found.parts

    async def _load(self, parts: Sequence[Part]) -> list[LiveStage]:
        """Those of the parts that came to be."""
        stages = [self._stage(part) for part in parts]
        self.coming += stages
        try:
            ends = await asyncio.gather(*(one.begin() for one in stages), return_exceptions=True)
        except asyncio.CancelledError:
            await asyncio.gather(*(one.release() for one in stages))
            raise
        finally:
            self.coming = [one for one in self.coming if one not in stages]
        for stage, end in zip(stages, ends, strict=True):
            if isinstance(end, StageRefused):
                self._failed = str(end)
            elif isinstance(end, StageLost):
                self.shun(stage.donor_id, str(end))
            if end is not None:
                await stage.release()
            if end is not None and not isinstance(end, StageLost):
                raise end
        return [stage for stage, end in zip(stages, ends, strict=True) if end is None]

    def _stage(self, part: Part) -> LiveStage:
        sizes, deployment = self._sizes, self._deployment
        assert sizes is not None
        spec = ShardSpec(
            model=deployment.spec().model,
            layers=part.layers,
            dtype=sizes.dtype,
            device=deployment.device,
            num_blocks=sizes.num_blocks,
            block_size=sizes.block_size,
            pace=self.pace,
        )
        least = sizes.capacity.least_bytes(LayerRange(part.layers.start, part.layers.stop))
        ask = deployment.stage_ask(self._excluded, seconds=2 * self._patience.notice, gpu_memory_gb=least / 1e9)
        return LiveStage(spec, part.offer, ask, self._link, self._patience)

    async def better(self, stages: Sequence[LiveStage]) -> Cut:
        """A cut that is worth leaving the present one for, or none. Raises Uncovered when nothing is known."""
        sizes, known = await self.measure(), await self.facts()
        held = []
        for one in stages:
            offer = known.of(one.donor_id, one.member.bytes_held)
            if offer is None:
                return Cut(why=f"{one.donor_id} is not here")
            held.append(Part(one.layers, offer))
        free = [offer for offer in known.offers if offer.donor.id not in {one.offer.donor.id for one in held}]
        return better(sizes.capacity, [*(one.offer for one in held), *free], self._split, held, Hysteresis())

    async def possible(self, stages: Sequence[LiveStage]) -> bool:
        """Whether the model could be held if these stages were given up. Raises Uncovered when nothing is known."""
        sizes, known = await self.measure(), await self.facts()
        own = [known.of(one.donor_id, one.member.bytes_held) for one in stages]
        offers = [*(one for one in own if one is not None), *known.offers]
        return bool(cut(sizes.capacity, offers, self._split))

    async def load(self, parts: Sequence[Part]) -> list[LiveStage]:
        """These parts, all of them, loaded. Raises Uncovered; then nothing of them is left."""
        loaded = await self._load(parts)
        if len(loaded) < len(parts):
            await asyncio.gather(*(one.release() for one in loaded))
            raise Uncovered(self._failed)
        return loaded


def holes(gap: range, stages: Sequence[LiveStage]) -> list[range]:
    """The layers of `gap` that no stage holds."""
    found, at = list[range](), gap.start
    for one in sorted(stages, key=lambda one: one.layers.start):
        if one.layers.start > at:
            found.append(range(at, min(one.layers.start, gap.stop)))
        at = max(at, one.layers.stop)
    return found + ([range(at, gap.stop)] if at < gap.stop else [])
