"""`GET /api/v1/jobs/direct/nearest`: the best worker that offers direct mode, and a ticket that it takes once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from hmac import new as hmac
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from ...grid import catalogue
from ...grid.direct_url import check_direct_url
from ...grid.donors import Donor, Load
from ...grid.job_types import UnknownJobTypeError, job_type
from ...grid.jobs import Ask
from ...grid.placement import rank
from ...grid.store import DonorRecord
from ...grid.tickets import LIFETIME, Ticket, mint, proof
from ...scheduler_plugins.placer import lot
from .auth import principal
from .client_address import AddressOf
from .jobs_bodies import RegionCode
from .jobs_door import JobDoor
from .jobs_queue import alive
from .jobs_stats import Region
from .known_donors import donor_of
from .problems import FieldError, Problem, problems, retry_after

FRESH = 1.0
"""Seconds for which one look at the workers is good, however many clients ask."""
BUSY_FOR = 5.0
"""Seconds after which a client may ask again when nobody can take its job now."""
MOST_EXCLUDED = 32


class NearestDocument(BaseModel):
    """Where to go, and what opens the door there."""

    worker_id: str
    direct_url: str = Field(description="Of the worker's own endpoint: `POST {direct_url}/v1/direct/{job_type}`.")
    region: RegionCode
    client_region: RegionCode | None = Field(description="Region that the client is taken to be in; null: not known.")
    gpu_model: str | None
    reliability_score: float = Field(ge=0, le=1)
    ticket: str = Field(description="For the header `X-Ticket` of one request to this worker.")
    ticket_expires_at: datetime
    challenge: str = Field(description="`GET {direct_url}/v1/direct/proof?challenge=…` of this worker answers `proof`.")
    proof: str


class Usher:
    """Knows who offers direct mode, and lets clients in."""

    def __init__(self, door: JobDoor, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._door, self._clock = door, clock
        self._private = door.settings.api.takes_private_urls
        self._seen: tuple[float, Sequence[tuple[Donor, Load, str]]] = (float("-inf"), ())
        self._looking = asyncio.Lock()

    async def nearest(self, ask: Ask, client_id: str, client_region: str | None) -> NearestDocument:
        """The best worker for `ask`. Raises Problem when there is none."""
        offered = [one for one in await self._workers() if ask.type in one[0].supported_types]
        if not offered:
            raise Problem("no_direct_worker", f"No worker offers direct mode for {ask.type} now. Use the queue.")
        now, nonce = datetime.now(UTC), uuid4().hex
        places = {donor.id: (donor, url) for donor, _, url in offered}
        pairs = [(donor, load) for donor, load, _ in offered]
        for choice in rank(ask, pairs, now, lambda donor_id: lot(nonce, donor_id, now)):
            secret = await self._door.call(self._door.store.credentials.signing_secret, choice.donor_id)
            if secret is not None:
                donor, url = places[choice.donor_id]
                return self._told(donor, url, secret, ask.type, client_id, client_region, nonce, now)
        detail = "No worker of direct mode can take this now. Try again later, or use the queue."
        raise Problem("direct_workers_busy", detail, headers=retry_after(BUSY_FOR))

    def _told(
        self,
        donor: Donor,
        url: str,
        secret: bytes,
        kind: str,
        client_id: str,
        client_region: str | None,
        nonce: str,
        now: datetime,
    ) -> NearestDocument:
        expires_at = (now + LIFETIME).replace(microsecond=0)
        ticket = Ticket(
            worker_id=donor.id,
            client_id=pseudonym(self._door.secret, donor.id, client_id),
            job_type=kind,
            expires_at=expires_at,
            nonce=nonce,
        )
        challenge = uuid4().hex
        return NearestDocument(
            worker_id=donor.id,
            direct_url=url,
            region=donor.region,
            client_region=client_region,
            gpu_model=donor.gpu_model,
            reliability_score=donor.reliability,
            ticket=mint(secret, ticket),
            ticket_expires_at=expires_at,
            challenge=challenge,
            proof=proof(secret, donor.id, challenge),
        )

    async def _workers(self) -> Sequence[tuple[Donor, Load, str]]:
        async with self._looking:
            good_until, seen = self._seen
            if self._clock() > good_until:
                records = await self._door.call(self._door.store.donors.list)
                seen = list(candidates(records, datetime.now(UTC), private=self._private))
                self._seen = (self._clock() + FRESH, seen)
        return seen


def candidates(records: Collection[DonorRecord], now: datetime, *, private: bool) -> Iterator[tuple[Donor, Load, str]]:
    """Who offers direct mode and is here, what it does, and its address. Nobody ever asks there from here."""
    here = {worker.facts.id for worker in alive([record.worker for record in records], now)}
    for record in records:
        id_ = record.worker.facts.id
        if id_ not in here or not record.registered or record.blocked_at is not None or record.direct_url is None:
            continue
        try:
            yield donor_of(record.worker), load_of(record), check_direct_url(record.direct_url, private=private)
        except ValueError:  # an address that this grid allows no more
            continue


def load_of(record: DonorRecord) -> Load:
    """What its last heartbeat said that it does. Its GPU's memory it judges itself: the model may be in it already."""
    running = record.report.get("running")
    return Load(running=running if isinstance(running, int) and running >= 0 else 0)


def pseudonym(secret: bytes, worker_id: str, client_id: str) -> str:
    """What a worker may call a client: always the same, and nothing that it could look up, or compare with others."""
    return hmac(secret, f"direct client|{worker_id}|{client_id}".encode(), sha256).hexdigest()[:16]


def direct_router(door: JobDoor, address_of: AddressOf) -> APIRouter:
    """The route, bound to the workers that are known."""
    router, usher = APIRouter(prefix="/api/v1/jobs", tags=["jobs"]), Usher(door)

    @router.get(
        "/direct/nearest",
        response_model=NearestDocument,
        responses=problems("unknown_job_type", "no_direct_worker", "direct_workers_busy"),
    )
    async def nearest(
        request: Request,
        job_type: Annotated[str, Query(min_length=1, max_length=64)],
        model: Annotated[str | None, Query(min_length=1, max_length=512)] = None,
        region: Region | None = None,
        exclude: Annotated[
            list[Annotated[str, Query(max_length=200)]] | None,
            Query(max_length=MOST_EXCLUDED, description="Ids of workers that could not be reached."),
        ] = None,
    ) -> NearestDocument:
        """The best worker that takes jobs of this type from clients themselves, and a ticket for one of them.

        What is done there is no durable job: nothing of it is kept here.
        """
        client_region = door.region_of(address_of(request.scope))
        ask = replace(asked(job_type, model), region=region or client_region, excluded=frozenset(exclude or ()))
        return await usher.nearest(ask, principal(request).client_id, client_region)

    return router


def asked(kind: str, model: str | None) -> Ask:
    """What placement must know of a job of this type. Raises Problem."""
    try:
        job_type(kind)
    except UnknownJobTypeError as error:
        raise Problem("unknown_job_type", f"job_type: {error}") from None
    try:
        name = catalogue.canonical(model, kind)
    except catalogue.UnknownModel as error:
        if model is not None:
            told = FieldError(location="query", field="model", code="unknown_model", detail=str(error))
            raise Problem("invalid_request", f"model: {error}", errors=[told]) from None
        return Ask(type=kind)  # a type without a list of models: the worker's own
    listed = catalogue.find(name)
    return Ask(type=kind, model=name, gpu_memory_gb=listed.gpu_memory_gb if listed else 0.0)
