"""`/api/v1/queue/stats`, `/api/v1/jobs/stats/queue` and `/api/v1/regions`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator

from ...grid.regions import check_region
from .client_address import AddressOf
from .jobs_bodies import QueueDocument, RegionCode, RegionsDocument
from .jobs_door import JobDoor
from .jobs_queue import Lookout
from .problems import problems

Region = Annotated[RegionCode, AfterValidator(check_region), Query(description="Code of a region.")]


def stats_router(door: JobDoor, lookout: Lookout, address_of: AddressOf) -> APIRouter:
    """The routes, bound to what they tell of."""
    router = APIRouter(prefix="/api/v1", tags=["queue"])

    @router.get("/queue/stats", response_model=QueueDocument, responses=problems())
    @router.get("/jobs/stats/queue", response_model=QueueDocument, responses=problems())
    async def queue(region: Region | None = None) -> QueueDocument:
        """What waits and runs, who is free, and how long a job would wait that came now."""
        return (await lookout.look(region)).document()

    @router.get("/regions", response_model=RegionsDocument, responses=problems())
    async def regions(request: Request) -> RegionsDocument:
        """The regions, the workers online in each, and how far apart they lie."""
        return await lookout.regions(door.region_of(address_of(request.scope)))

    return router
