"""`POST /api/v1/workers/{id}/refresh-token`: both tokens anew, and the certificate with them."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ...grid.store import BadRefreshToken, By
from ..logs import logger
from .auth import worker
from .client_address import AddressOf
from .donor_bodies import RefreshBody, TokensDocument
from .jobs_door import JobDoor
from .problems import Problem, problems
from .worker_bodies import WorkerId
from .worker_heartbeat import OWN
from .worker_tls import Certifier

log = logger(__name__)


def tokens_router(door: JobDoor, address_of: AddressOf) -> APIRouter:
    """The route, bound to the store."""
    router = APIRouter(prefix="/api/v1/workers", tags=["donors"])
    certificate = Certifier(door.settings, door.scheduler)

    @router.post(
        "/{worker_id}/refresh-token",
        response_model=TokensDocument,
        responses=problems("invalid_json", *OWN, "invalid_refresh_token", "unsupported_media_type"),
    )
    async def refresh(worker_id: WorkerId, body: RefreshBody, request: Request) -> TokensDocument:
        """Spend the refresh token. Who never got the answer may ask again within a minute, and gets the same.

        Signed; the access token may have expired. A refresh token that comes a second time later, or after its
        successor was used, was stolen: all credentials of the worker are revoked.
        """
        worker(request)
        by = By(worker_id, address_of(request.scope))
        try:
            pair = await door.call(door.store.credentials.refresh, worker_id, body.refresh_token, by)
        except BadRefreshToken as error:
            if error.stolen:
                log.warning("worker.refresh_token_reused", worker=worker_id)
            raise Problem("invalid_refresh_token", f"The refresh token: {error}.") from None
        return TokensDocument.of(pair, certificate(worker_id))

    return router
