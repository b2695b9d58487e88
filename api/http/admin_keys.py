"""`/api/v1/admin/keys`: API keys are made, listed and revoked by who has the scope `admin`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Path, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from ...grid.store import ApiKey
from ..logs import logger
from .auth import KeyRing, principal
from .bodies import Body
from .jobs_door import JobDoor
from .problems import FieldError, Problem, problems

log = logger(__name__)

_PLAIN = r"^[A-Za-z0-9._:@ -]+$"
KeyId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


class KeyBody(Body):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=100, pattern=_PLAIN, description="For people.")
    scopes: list[Literal["jobs", "admin", "nodes"]] = Field(["jobs"], min_length=1, max_length=3)
    client_id: str | None = Field(
        None, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:@-]+$", description="Unset: a client of its own."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, le=10_000_000, strict=True, description="Unset: the grid's default."
    )
    expires_at: AwareDatetime | None = Field(None, description="With a time zone. Unset: never.")


class KeyDocument(BaseModel):
    """A key, without its secret."""

    id: str
    name: str
    prefix: str = Field(description="The eight characters after `ig_`, to tell keys apart.")
    scopes: list[str]
    client_id: str
    requests_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Within a minute.")

    @classmethod
    def of(cls, key: ApiKey, **more: Any) -> Self:
        return cls(
            id=key.id,
            name=key.name,
            prefix=key.prefix,
            scopes=sorted(key.scopes),
            client_id=key.client_id,
            requests_per_minute=key.requests_per_minute,
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
            **more,
        )


class NewKeyDocument(KeyDocument):
    """A key that was just made."""

    secret: str = Field(description="Shown this once: the grid keeps only its hash.")


class KeyList(BaseModel):
    """All keys, the newest first."""

    keys: list[KeyDocument]


def keys_router(door: JobDoor, ring: KeyRing | None) -> APIRouter:
    """The routes, bound to the store. `ring` forgets keys that are revoked here."""
    router = APIRouter(prefix="/api/v1/admin/keys", tags=["admin"])

    @router.post(
        "", status_code=201, response_model=NewKeyDocument, responses=problems("invalid_json", "unsupported_media_type")
    )
    async def create(body: KeyBody, request: Request) -> NewKeyDocument:
        """Make a key. Its secret is in this answer and nowhere else."""
        if body.expires_at is not None and not _soon(body.expires_at):
            told = FieldError(location="body", field="expires_at", code="past", detail="this moment has passed")
            raise Problem("invalid_request", "expires_at: this moment has passed, or is no moment", errors=[told])
        key, secret = await door.call(
            door.store.keys.create,
            body.name,
            frozenset(body.scopes),
            client_id=body.client_id,
            requests_per_minute=body.requests_per_minute,
            expires_at=body.expires_at,
        )
        log.info("key.created", key_id=key.id, scopes=sorted(key.scopes), by=principal(request).client_id)
        return NewKeyDocument.of(key, secret=secret)

    @router.get("", response_model=KeyList, responses=problems())
    async def list_keys() -> KeyList:
        """All keys, revoked ones too."""
        return KeyList(keys=[KeyDocument.of(key) for key in await door.call(door.store.keys.list)])

    @router.delete("/{key_id}", status_code=204, responses=problems("key_not_found"))
    async def revoke(key_id: KeyId, request: Request) -> Response:
        """Revoke a key for good. Other processes of the service believe it for at most a second more."""
        if not await door.call(door.store.keys.revoke, key_id):
            raise Problem("key_not_found", "There is no key of this id or prefix, or it is revoked already.")
        if ring is not None:
            ring.forget()
        log.info("key.revoked", key_id=key_id, by=principal(request).client_id)
        return Response(status_code=204)

    return router


def _soon(moment: datetime) -> bool:
    return datetime.now(UTC) < moment.astimezone(UTC) if moment.year < 9999 else False
