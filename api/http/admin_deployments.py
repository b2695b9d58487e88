"""`/api/v1/admin/deployments`: which language models the grid serves, as administrators want it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response

from ...grid.catalogue import UnknownModel, find
from ...grid.deployments import DeploymentSpec, check_model
from ...grid.store import SERVING, AlreadyDeployed, By, DeploymentRecord, VersionConflict
from ..desired import deployment_of
from ..logs import logger
from .auth import principal
from .client_address import AddressOf
from .deployment_bodies import DeploymentBody, DeploymentDocument, DeploymentList, DeploymentPatch, ServingDocument
from .jobs_door import JobDoor
from .problems import FieldError, Problem, printable, problems

log = logger(__name__)

ModelId = Annotated[str, Path(max_length=300, description="Name of the model; slashes stay as they are.")]
IfMatch = Annotated[
    str | None, Header(max_length=100, description="The version that is to be changed, in quotes; `*`: any.")
]
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,9})"')
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]+")


def deployments_router(door: JobDoor, address_of: AddressOf) -> APIRouter:
    """The routes, bound to the store. Whoever serves the deployments sees a change within a second."""
    router = APIRouter(prefix="/api/v1/admin/deployments", tags=["admin"])
    store = door.store.deployments

    def by(request: Request) -> By:
        return By(principal(request).client_id, address_of(request.scope))

    @router.post(
        "",
        status_code=201,
        response_model=DeploymentDocument,
        responses=problems("invalid_json", "already_deployed", "unknown_model", "unsupported_media_type"),
    )
    async def deploy(body: DeploymentBody, request: Request, response: Response) -> DeploymentDocument:
        """Serve a model from now on. The answer comes at once; `state` tells how far it is."""
        try:
            name = check_model(body.model, body.source)
        except UnknownModel as error:
            raise Problem("unknown_model", str(error)) from None
        spec = DeploymentSpec.from_wire(body.model_dump() | {"model": name})
        _check(spec)
        try:
            record = await door.call(store.create, spec, by(request))
        except AlreadyDeployed:
            told = f"{name} is deployed already: change it with PATCH, or undeploy it first."
            raise Problem("already_deployed", told) from None
        log.info("deployment.created", version=record.version, by=record.actor)
        return _told(record, response)

    @router.get("", response_model=DeploymentList, responses=problems())
    async def list_deployments() -> DeploymentList:
        """All deployments: what is wanted, how each stands, and who holds which layers."""
        records = await door.call(store.list)
        lease = await door.call(door.store.leases.look, SERVING)
        return DeploymentList(
            deployments=[DeploymentDocument.of(record) for record in records], serving=ServingDocument.of(lease)
        )

    @router.get("/{model_id:path}", response_model=DeploymentDocument, responses=problems("deployment_not_found"))
    async def read(model_id: ModelId, response: Response) -> DeploymentDocument:
        """One deployment; its version is the ETag."""
        return _told(await door.call(store.get, _name(model_id)), response)

    @router.patch(
        "/{model_id:path}",
        response_model=DeploymentDocument,
        responses=problems("invalid_json", "deployment_not_found", "version_conflict", "unsupported_media_type"),
    )
    async def change(
        model_id: ModelId, body: DeploymentPatch, request: Request, response: Response, if_match: IfMatch = None
    ) -> DeploymentDocument:
        """Change what is wanted. Another number of replicas disturbs none that stays; anything else begins anew."""
        name, changes = _name(model_id), body.changes()
        before = await door.call(store.get, name)
        if before is None or not before.wanted:
            raise _not_found()
        _check(before.spec.change(**changes))
        record = await _conflicting(door.call(store.change, name, changes, by(request), expected=_version(if_match)))
        log.info("deployment.changed", fields=sorted(changes), by=principal(request).client_id)
        return _told(record, response)

    @router.delete(
        "/{model_id:path}",
        response_model=DeploymentDocument,
        responses=problems("deployment_not_found", "version_conflict"),
    )
    async def undeploy(
        model_id: ModelId, request: Request, response: Response, if_match: IfMatch = None
    ) -> DeploymentDocument:
        """Serve a model no more. Answers that are under way end with an error."""
        record = await _conflicting(
            door.call(store.withdraw, _name(model_id), by(request), expected=_version(if_match))
        )
        log.info("deployment.withdrawn", by=principal(request).client_id)
        return _told(record, response)

    return router


def _check(spec: DeploymentSpec) -> None:
    """Raise Problem 422 for what can't be wanted together."""
    try:
        deployment_of(spec)
    except ValueError as error:
        told = FieldError(location="body", field="", code="not_together", detail=printable(str(error)))
        raise Problem("invalid_request", f"{error}.", errors=[told]) from None


def _name(model_id: str) -> str:
    """The name under which it is kept. Raises Problem 404 for what can't be one."""
    if not _PRINTABLE.fullmatch(model_id):
        raise _not_found()
    listed = find(model_id)
    return model_id if listed is None else listed.id


def _version(if_match: str | None) -> int | None:
    """What If-Match wants; None: any version. Raises Problem 412 for a tag that was never given."""
    if if_match is None or if_match.strip() == "*":
        return None
    form = _ETAG.fullmatch(if_match.strip())
    if form is None:
        raise Problem("version_conflict", 'If-Match holds the version in quotes, as in "3".')
    return int(form[1])


async def _conflicting(changing: Any) -> DeploymentRecord | None:
    try:
        record: DeploymentRecord | None = await changing
    except VersionConflict as conflict:
        told = f"The deployment is at version {conflict.current} by now: read it again, then change it."
        raise Problem("version_conflict", told, headers={"ETag": f'"{conflict.current}"'}) from None
    return record


def _told(record: DeploymentRecord | None, response: Response) -> DeploymentDocument:
    if record is None:
        raise _not_found()
    response.headers["ETag"] = f'"{record.version}"'
    return DeploymentDocument.of(record)


def _not_found() -> Problem:
    return Problem("deployment_not_found", "No such model is deployed. GET /api/v1/admin/deployments lists them.")
