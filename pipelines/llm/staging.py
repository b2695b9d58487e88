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
from ...grid.layers.capacity import LayerDonor
from ...grid.layers.persistence import Persistence
from ...grid.layers.replanning import Hysteresis
from ...grid.layers.shape import LayerRange
from .chain_plan import Offer, Part, Split, better, cut
from .deployment import Deployment
from .donor_facts import Facts, Needs, facts
from .donor_slot import DonorSlot
from .link import GridLink
from .live_stage import LiveStage, StageLost, StageRefused
from .model_shape import Sizes, configuration, sizes_of
from .reconcile import Patience
from .recut import Recut, holding, recut
from .trials import Trials

logger = logging.getLogger(__name__)

TRIES = 3
"""So often donors are chosen for the same layers, each time without those that failed."""


class Uncovered(Exception):
    """Nobody can take some layers now; the message says which, and what memory would suffice."""

    def __init__(self, why: str, *, tried: bool = False) -> None:
        super().__init__(why)
        self.tried = tried
        """There were donors, and they failed."""


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
        self._trials, self._gain = Trials(link), Persistence()
        self.here: frozenset[str] = frozenset()
        """Donors of the grid, when it was asked last."""

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
        """A stage failed there: the donor is avoided for a while, each further time twice as long. After a while
        without failures the next one is a first again."""
        logger.warning("a stage of %s was lost: %s", self._deployment.model, why)
        now = time.monotonic()
        before, until = self._shunned.get(donor_id, (0, now))
        times = 1 if now - until > self._patience.steady else before + 1
        cool = min(self._patience.cool_most, self._patience.cool * 2.0 ** min(times - 1, 30))
        self._shunned[donor_id] = (times, now + cool)
        self._failed = why

    def _avoided(self) -> set[str]:
        now = time.monotonic()
        return {donor for donor, (_, until) in self._shunned.items() if now < until}

    async def facts(self, taken: frozenset[str] = frozenset()) -> Facts:
        """The donors now; those of `taken`, and those that failed lately, offer nothing. Raises Uncovered."""
        sizes = await self.measure()
        ask = self._deployment.stage_ask(self._excluded | taken | self._avoided(), seconds=2 * self._patience.notice)
        key = f"{self._deployment.model} {id(self)}"
        try:
            known = await facts(self._link, ask, key, self._needs(sizes))
        except (OSError, TimeoutError) as error:
            raise Uncovered(f"the scheduler can't be asked for donors: {error or type(error).__name__}") from error
        self.here = frozenset(known.rows)
        return known

    def _needs(self, sizes: Sizes) -> Needs:
        deployment = self._deployment
        return Needs(sizes.capacity.model.layer_bytes, deployment.device, deployment.region, sizes.dtype)

    async def _tried(self, known: Facts) -> Facts:
        """With the speeds of donors that nobody had measured. Nobody waits for them in the middle of an answer."""
        if self._split.layers is not None:  # who gets them does not follow from speed alone
            return known
        ask = self._deployment.stage_ask(self._excluded, seconds=0.0)
        return await self._trials.made(known.needing(self._needs(await self.measure())), ask)

    async def cover(self, gap: range | None, taken: frozenset[str]) -> list[LiveStage]:
        """Loaded stages for these layers (None: for all), on donors that are not in `taken`. Raises Uncovered; then
        nothing that was loaded for it is left."""
        whole, gap = gap is None, range((await self.measure()).num_layers) if gap is None else gap
        found: list[LiveStage] = []
        try:
            for _ in range(TRIES):
                for hole in holes(gap, found):
                    known = await self.facts(taken | {one.donor_id for one in found})
                    await self._settle(known)
                    known = await self._tried(known) if whole else known
                    others = known.donors(taken | {one.donor_id for one in found})
                    found += await self._load(self._plan(await self.measure(), known, hole, others))
                if not holes(gap, found):
                    return sorted(found, key=lambda one: one.layers.start)
            raise Uncovered(self._failed, tried=True)
        except BaseException:
            await asyncio.gather(*(one.release() for one in found))
            raise

    def _plan(self, sizes: Sizes, known: Facts, gap: range, others: Sequence[LayerDonor]) -> Sequence[Part]:
        """`others`: who holds the other layers."""
        found = cut(sizes.capacity, known.offers, self._split, gap, near=known.near, beside=others)
        if not found:
            raise Uncovered(found.why + (f"; lately failed: {self._failed}" if self._failed else ""))
        return found.parts

    async def _load(
        self, parts: Sequence[Part], beside: Sequence[LiveStage] = (), instead: Sequence[LiveStage] = ()
    ) -> list[LiveStage]:
        """Those of the parts that came to be. On the donors of `beside` they come into the slots that are there; those
        of `instead` are released before."""
        slots = {one.donor_id: one.slot for one in beside}
        stages = [self._stage(part, slots.get(part.offer.donor.id)) for part in parts]
        self.coming += stages
        try:
            await asyncio.gather(*(one.release() for one in instead))
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

    def _stage(self, part: Part, slot: DonorSlot | None) -> LiveStage:
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
            layer_bytes=sizes.capacity.model.layer_bytes,
            head_layers=sizes.capacity.model.head_layers,
        )
        least = sizes.capacity.least_bytes(LayerRange(part.layers.start, part.layers.stop))
        ask = deployment.stage_ask(self._excluded, seconds=2 * self._patience.notice, gpu_memory_gb=least / 1e9)
        slot = slot or DonorSlot(part.offer, ask, self._link, self._patience)
        return LiveStage(spec, part.offer, slot, self._patience)

    async def better(self, stages: Sequence[LiveStage]) -> Recut | None:
        """A cut that is worth leaving the present one for. Raises Uncovered when nothing is known."""
        sizes, known = await self.measure(), await self._tried(await self.facts())
        held = self._held(sizes, known, stages)
        if len(held) < len(stages):
            return None
        offers = [*(one.offer for one in held), *_others(known, held)]
        found = better(sizes.capacity, offers, self._split, held, Hysteresis(), known.near)
        self._gain = self._gain.after(bool(found))
        return recut(sizes.capacity, held, found) if found and self._gain.lasts else None

    async def another(self, stages: Sequence[LiveStage], leaving: Sequence[LiveStage] = ()) -> Recut | None:
        """Any cut, if `stages` don't hold all layers and nobody takes the others; none of its parts is on the donors
        of `leaving`. Raises Uncovered when nothing is known."""
        sizes, known = await self.measure(), await self.facts()
        held = self._held(sizes, known, [*stages, *leaving])
        left = {one.donor_id for one in leaving}
        offers = [*(one.offer for one in held), *_others(known, held)]
        able = [one for one in offers if one.donor.id not in left]
        found = cut(sizes.capacity, able, self._split, near=known.near)
        return recut(sizes.capacity, held, found) if found else None

    def _held(self, sizes: Sizes, known: Facts, stages: Sequence[LiveStage]) -> list[Part]:
        """Those of them whose donors are here and did not fail just now. Each offer is as if its donor held nothing."""
        parts = list[Part]()
        for one in stages:
            now = known.of(one.donor_id, 0)
            if now is None or one.donor_id in self._avoided():
                continue
            free = now.donor.memory_bytes
            freed = holding(sizes.capacity, one.layers, one.offer.donor.memory_bytes).freed(free)
            parts.append(Part(one.layers, replace(now, donor=replace(now.donor, memory_bytes=free + freed))))
        return parts

    async def load(
        self, parts: Sequence[Part], beside: Sequence[LiveStage] = (), instead: Sequence[LiveStage] = ()
    ) -> list[LiveStage]:
        """These parts, all of them, loaded: on the donors of `beside` in the slots that these have. `instead`: stages
        that end first. Raises Uncovered; then nothing of the parts is left."""
        loaded = await self._load(parts, beside, instead)
        if len(loaded) < len(parts):
            await asyncio.gather(*(one.release() for one in loaded))
            raise Uncovered(self._failed, tried=True)
        return loaded


def _others(known: Facts, held: Sequence[Part]) -> list[Offer]:
    there = {one.offer.donor.id for one in held}
    return [one for one in known.offers if one.donor.id not in there]


def holes(gap: range, stages: Sequence[LiveStage]) -> list[range]:
    """The layers of `gap` that no stage holds."""
    found, at = list[range](), gap.start
    for one in sorted(stages, key=lambda one: one.layers.start):
        if one.layers.start > at:
            found.append(range(at, min(one.layers.start, gap.stop)))
        at = max(at, one.layers.stop)
    return found + ([range(at, gap.stop)] if at < gap.stop else [])
