"""`POST /api/v1/workers/register`: an invited machine becomes a worker; `/{id}/announce`: what changed since."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import ValidationError

from ...grid.direct_url import check_direct_url
from ...grid.store import BadEnrolment, NewWorker, TooManyWorkers
from ..logs import logger
from .auth import enrolling, worker
from .client_address import AddressOf
from .donor_bodies import AnnouncedDocument, FactsBody, RegisterBody, RegisteredDocument, load_control
from .jobs_door import JobDoor
from .problems import FieldError, Problem, from_validation, problems
from .worker_bodies import WorkerId
from .worker_heartbeat import OWN, gone
from .worker_tls import Certifier

log = logger(__name__)


def register_router(door: JobDoor, address_of: AddressOf) -> APIRouter:
    """The routes, bound to the store."""
    router = APIRouter(prefix="/api/v1/workers", tags=["donors"])
    settings, credentials = door.settings, door.store.credentials
    certificate = Certifier(settings, door.scheduler)

    @router.post(
        "/register",
        status_code=201,
        response_model=RegisteredDocument,
        responses=problems(
            "invalid_json",
            "invalid_enrolment_token",
            "too_many_workers",
            "request_too_large",
            "unsupported_media_type",
            "locked_out",
        ),
    )
    async def register(body: RegisterBody, request: Request) -> RegisteredDocument:
        """Become a worker, with an enrolment token that is good for one. What is answered is told this once."""
        new = _checked(body, private=settings.api.takes_private_urls)
        try:
            made = await door.call(credentials.register, enrolling(request).token, new, address_of(request.scope))
        except BadEnrolment as error:
            raise Problem("invalid_enrolment_token", f"X-Enrolment-Token: {error}.") from None
        except TooManyWorkers as error:
            raise Problem("too_many_workers", f"{error}.") from None
        log.info("worker.registered", worker=made.worker_id, region=new.region, types=sorted(new.supported_types))
        return RegisteredDocument(
            worker_id=made.worker_id,
            token=made.tokens.token,
            refresh_token=made.tokens.refresh_token,
            token_expires_at=made.tokens.token_expires_at,
            signing_secret=made.signing_secret,
            scheduler_address=door.scheduler,
            tls=certificate(made.worker_id),
            config=dict(new.config),
            config_version=made.config_version,
            heartbeat_interval=settings.heartbeat_interval,
        )

    @router.post(
        "/{worker_id}/announce",
        response_model=AnnouncedDocument,
        responses=problems("invalid_json", *OWN, "request_too_large", "unsupported_media_type"),
    )
    async def announce(worker_id: WorkerId, body: FactsBody, request: Request) -> AnnouncedDocument:
        """Say what this worker is from now on, all of it: what it said when it registered holds no more.

        Its load control is not part of it: that is changed with `/config`.
        """
        worker(request)
        now = body.worker(_direct_url(body, private=settings.api.takes_private_urls))
        changed = await door.call(door.store.donors.announce, worker_id, now)
        if changed is None:
            raise gone()
        if changed:
            log.info("worker.announced", worker=worker_id, region=now.region, types=sorted(now.supported_types))
        return AnnouncedDocument(changed=changed)

    return router


def _checked(body: RegisterBody, *, private: bool) -> NewWorker:
    """What is checked by rules of its own. Raises Problem 422."""
    direct_url = _direct_url(body, private=private)
    try:
        return body.worker(direct_url, load_control(body.config or {}))
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False), "config") from None


def _direct_url(body: FactsBody, *, private: bool) -> str | None:
    try:
        return None if body.direct_url is None else check_direct_url(body.direct_url, private=private)
    except ValueError as error:
        told = FieldError(location="body", field="direct_url", code="value_error", detail=str(error))
        raise Problem("invalid_request", f"direct_url: {error}", errors=[told]) from None
