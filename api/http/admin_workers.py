"""`/api/v1/admin/workers` and `/api/v1/admin/enrolments`: who is let in, and who is not any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from ...grid.commands import Order
from ...grid.store import By, DonorStore
from ..logs import logger
from .auth import principal
from .client_address import AddressOf
from .donor_bodies import (
    DonorDocument,
    DonorList,
    EnrolmentBody,
    EnrolmentDocument,
    EnrolmentList,
    NewEnrolmentDocument,
)
from .jobs_door import JobDoor
from .problems import Problem, problems
from .worker_auth import Checkpoint
from .worker_bodies import WorkerId

log = logger(__name__)

EnrolmentId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


def join_line(url: str, token: str) -> str:
    """The one line with which a donor joins."""
    return f"gpu-worker join {url} {token}"


def enrolments_router(door: JobDoor, address_of: AddressOf) -> APIRouter:
    """The routes of enrolments."""
    router = APIRouter(prefix="/api/v1/admin/enrolments", tags=["admin"])
    enrolments = door.store.enrolments

    @router.post(
        "",
        status_code=201,
        response_model=NewEnrolmentDocument,
        responses=problems("invalid_json", "unsupported_media_type"),
    )
    async def create(body: EnrolmentBody, request: Request) -> NewEnrolmentDocument:
        """Let one machine in, once. The token is in this answer and nowhere else."""
        by = By(principal(request).client_id, address_of(request.scope))
        made, token = await door.call(enrolments.create, body.valid_seconds, body.owner, by)
        log.info("enrolment.created", enrolment=made.prefix, by=by.actor)
        join = join_line(door.settings.api.urls_for_workers[0], token)
        return NewEnrolmentDocument.of(made, token=token, join=join)

    @router.get("", response_model=EnrolmentList, responses=problems())
    async def list_enrolments() -> EnrolmentList:
        """The last thousand, used ones too."""
        return EnrolmentList(enrolments=[EnrolmentDocument.of(one) for one in await door.call(enrolments.list)])

    @router.delete("/{enrolment_id}", status_code=204, responses=problems("enrolment_not_found"))
    async def revoke(enrolment_id: EnrolmentId, request: Request) -> Response:
        """Take an enrolment back that nobody has used yet."""
        by = By(principal(request).client_id, address_of(request.scope))
        if not await door.call(enrolments.revoke, enrolment_id, by):
            raise Problem("enrolment_not_found", "There is no such enrolment that could still be used.")
        return Response(status_code=204)

    return router


def workers_router(door: JobDoor, address_of: AddressOf, checkpoint: Checkpoint) -> APIRouter:
    """The routes of workers. `checkpoint` forgets failures when a worker is unlocked here."""
    router = APIRouter(prefix="/api/v1/admin/workers", tags=["admin"])
    donors = door.store.donors

    @router.get("", response_model=DonorList, responses=problems())
    async def list_workers() -> DonorList:
        """All workers in the store, those that never registered too."""
        return DonorList(workers=[DonorDocument.of(donor) for donor in await door.call(donors.list)])

    async def decide(worker_id: str, request: Request, what: str, act: Callable[[str, By], bool]) -> DonorDocument:
        by = By(principal(request).client_id, address_of(request.scope))
        known = await door.call(act, worker_id, by)
        donor = await door.call(donors.get, worker_id) if known else None
        if donor is None:
            raise Problem("worker_not_found", "There is no worker of this id.")
        log.info(f"worker.{what}", worker=worker_id, by=by.actor)
        return DonorDocument.of(donor)

    @router.post("/{worker_id}/block", response_model=DonorDocument, responses=problems("worker_not_found"))
    async def block(worker_id: WorkerId, request: Request) -> DonorDocument:
        """Let nothing of this worker in any more, until it is unblocked. What it runs goes to others at once.

        The Dask scheduler hears of it within seconds, and then sends its Dask workers away.
        """
        return await decide(worker_id, request, "block", door.store.block)

    @router.post("/{worker_id}/unblock", response_model=DonorDocument, responses=problems("worker_not_found"))
    async def unblock(worker_id: WorkerId, request: Request) -> DonorDocument:
        """Let it in again, with the credentials that it has."""
        return await decide(worker_id, request, "unblock", donors.unblock)

    @router.post("/{worker_id}/unlock", response_model=DonorDocument, responses=problems("worker_not_found"))
    async def unlock(worker_id: WorkerId, request: Request) -> DonorDocument:
        """Forget the failed authentications for this worker, wherever they came from."""
        told = await decide(worker_id, request, "unlock", donors.unlock)
        checkpoint.unlock(worker_id)
        return told

    for order, told in _ORDERS.items():
        _ordering(router, order, told, decide, donors)
    return router


_Decide = Callable[[str, Request, str, Callable[[str, By], bool]], Awaitable[DonorDocument]]
_ORDERS = {
    Order.DRAIN: "Tell it to finish what runs and to take nothing new.",
    Order.RESUME: "Tell it to take work again.",
    Order.RESTART: "Tell it to start its worker process again. What runs is finished first.",
    Order.SHUTDOWN: "Tell it to finish what runs, to leave the grid and to end.",
}


def _ordering(router: APIRouter, order: Order, told: str, decide: _Decide, donors: DonorStore) -> None:
    """The route with which one order is given."""

    @router.post(
        f"/{{worker_id}}/{order.value}",
        name=order.value,
        description=f"{told} It hears that with its next heartbeat.",
        response_model=DonorDocument,
        responses=problems("worker_not_found"),
    )
    async def give(worker_id: WorkerId, request: Request) -> DonorDocument:
        return await decide(worker_id, request, order.value, lambda id_, by: donors.command(id_, order, by))
