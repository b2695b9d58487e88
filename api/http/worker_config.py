"""`/api/v1/workers/{id}/config`: a worker's load control, changed by itself or by an administrator, with versions."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from pydantic import ValidationError

from ...grid.store import By, VersionConflict, Versioned
from ..logs import logger
from .auth import Principal
from .client_address import AddressOf
from .donor_bodies import ConfigBody, ConfigDocument, load_control
from .jobs_door import JobDoor
from .problems import Problem, from_validation, problems
from .worker_bodies import WorkerId
from .worker_heartbeat import OWN

log = logger(__name__)

_ETAG = re.compile(r'(?:W/)?"([0-9]{1,9})"')


def config_router(door: JobDoor, address_of: AddressOf) -> APIRouter:
    """The routes, bound to the store."""
    router = APIRouter(prefix="/api/v1/workers", tags=["donors"])
    donors = door.store.donors
    everybody = ("invalid_worker_token", "scope_missing", "worker_blocked", "worker_not_found", "locked_out")

    @router.get("/{worker_id}/config", response_model=ConfigDocument, responses=problems(*everybody))
    async def read(worker_id: WorkerId, response: Response) -> ConfigDocument:
        """The load control that the grid holds for this worker; its version is the ETag."""
        return _told(await door.call(donors.config, worker_id), response)

    @router.put(
        "/{worker_id}/config",
        response_model=ConfigDocument,
        responses=problems(
            "invalid_json", *dict.fromkeys((*everybody, *OWN)), "version_conflict", "unsupported_media_type"
        ),
    )
    async def write(
        worker_id: WorkerId,
        body: ConfigBody,
        request: Request,
        response: Response,
        if_match: Annotated[
            str | None, Header(max_length=100, description="The version that is to be changed, in quotes; `*`: any.")
        ] = None,
    ) -> ConfigDocument:
        """Put another load control in its place: one version more. 412 when it is at another version by now."""
        try:
            config = load_control(body.config)
        except ValidationError as error:
            raise from_validation(error.errors(include_url=False, include_input=False), "config") from None
        who = request.state.who
        actor = who.client_id if isinstance(who, Principal) else worker_id
        expected = body.version if if_match is None else _version(if_match)
        try:
            by = By(actor, address_of(request.scope))
            at = await door.call(donors.set_config, worker_id, config, by, expected=expected)
        except VersionConflict as conflict:
            raise _conflict(conflict.current) from None
        told = _told(at, response)
        log.info("worker.configured", worker=worker_id, version=told.version, by=actor)
        return told

    return router


def _version(if_match: str) -> int | None:
    """What If-Match wants; None: any version. A tag that was never given fits none. Raises Problem 412."""
    if if_match.strip() == "*":
        return None
    form = _ETAG.fullmatch(if_match.strip())
    if form is None:
        raise Problem("version_conflict", 'If-Match holds the version in quotes, as in "3".')
    return int(form[1])


def _conflict(current: int) -> Problem:
    told = f"The configuration is at version {current} by now: read it again, then change it."
    return Problem("version_conflict", told, headers={"ETag": f'"{current}"'})


def _told(at: Versioned | None, response: Response) -> ConfigDocument:
    if at is None:
        raise Problem("worker_not_found", "There is no worker of this id.")
    response.headers["ETag"] = f'"{at.version}"'
    return ConfigDocument.of(at)
