"""`/v1/files`: files of clients, as OpenAI's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from ...grid.store import FileRecord, NewFile, QuotaExceeded, Store
from ..batches.folder import FileFolder, TooLarge, Written, reader
from .auth import principal
from .errors import ApiError, unavailable

T = TypeVar("T")
PATH = "/v1/files"
MIB = 1024 * 1024
SHORTEST, LONGEST = 3_600, 2_592_000
"""Seconds of `expires_after`, as OpenAI has them."""
PURPOSES = ("batch",)
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSONL: one request a line."},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": SHORTEST, "maximum": LONGEST},
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class FileLimits:
    """What a client may keep."""

    file_bytes: int
    client_bytes: int
    lives: float | None
    """Seconds. None: for ever."""


class FileDocument(BaseModel):
    """A file, as OpenAI shows it."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: FileRecord) -> FileDocument:
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=int(file.created_at.timestamp()),
            expires_at=None if file.expires_at is None else int(file.expires_at.timestamp()),
            filename=file.filename,
            purpose=file.purpose,
        )


class FileList(BaseModel):
    """Files, the newest first."""

    object: Literal["list"] = "list"
    data: list[FileDocument]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    """A file that was there."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool


def files_router(store: Store, folder: FileFolder, limits: FileLimits) -> APIRouter:
    """The routes, bound to where files are."""
    router = APIRouter(prefix=PATH, tags=["files"])

    @router.post("", response_model=FileDocument, openapi_extra=_FORM)
    async def upload(request: Request) -> FileDocument:
        """Keep a file, for a batch."""
        client = principal(request).client_id
        used, _ = await call(store.files.used, client)
        if used >= limits.client_bytes:  # before it is read; what counts is asked again when it is kept
            raise _full(used, limits)
        async with request.form(max_files=1, max_fields=8) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise ApiError(
                    400, "Missing required parameter: 'file'.", param="file", code="missing_required_parameter"
                )
            if purpose not in PURPOSES:
                known = ", ".join(map(repr, PURPOSES))
                raise ApiError(400, f"Invalid value for 'purpose': it is one of {known}.", param="purpose")
            lives = _lives(form.get("expires_after[anchor]"), form.get("expires_after[seconds]"), limits.lives)
            return await _kept(store, folder, replace(limits, lives=lives), client, file, str(purpose))

    @router.get("", response_model=FileList)
    async def list_files(
        request: Request,
        purpose: Annotated[str | None, Query(max_length=64)] = None,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        order: Literal["asc", "desc"] = "desc",
    ) -> FileList:
        """Your files, the newest first."""
        client, oldest_first = principal(request).client_id, order == "asc"
        found = await call(
            store.files.list, client, purpose=purpose, after=after, limit=limit + 1, oldest_first=oldest_first
        )
        data = [FileDocument.of(file) for file in found[:limit]]
        ids = [file.id for file in data]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        return FileList(data=data, first_id=first, last_id=last, has_more=len(found) > limit)

    @router.get("/{file_id}", response_model=FileDocument)
    async def retrieve(file_id: str, request: Request) -> FileDocument:
        """What is known of a file."""
        return FileDocument.of(await existing(store, file_id, principal(request).client_id))

    @router.delete("/{file_id}", response_model=Deleted)
    async def delete(file_id: str, request: Request) -> Deleted:
        """Delete a file. A batch that has not read it yet fails; one that has goes on."""
        client = principal(request).client_id
        await existing(store, file_id, client)
        await call(folder.delete, file_id)  # first: content that nobody knows would stay for ever
        await call(store.files.delete, file_id, client)
        return Deleted(id=file_id, deleted=True)

    @router.get("/{file_id}/content", response_class=FileResponse)
    async def content(file_id: str, request: Request) -> FileResponse:
        """The content of a file."""
        file = await existing(store, file_id, principal(request).client_id)
        path = folder.path(file.id)
        if not await call(path.exists):
            raise ApiError(404, f"The content of file {file.id} is gone.", param="file_id", code="file_not_found")
        return FileResponse(path, media_type="application/jsonl", filename=file.filename)

    return router


async def existing(store: Store, file_id: str, client: str, *, param: str = "file_id") -> FileRecord:
    """A client's file. Raises ApiError 404."""
    found = await call(store.files.get, file_id, client)
    if found is None:
        raise ApiError(404, f"No such File object: {file_id[:100]}.", param=param, code="file_not_found")
    return found


async def call(what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """A blocking call of the store or the folder."""
    return await asyncio.to_thread(what, *args, **kwargs)


async def _kept(
    store: Store, folder: FileFolder, limits: FileLimits, client: str, file: UploadFile, purpose: str
) -> FileDocument:
    file_id = f"file-{uuid.uuid4().hex}"
    kept: list[FileRecord] = []

    def chunks() -> Iterator[bytes]:
        return reader(file.file.read)

    def known(written: Written) -> None:
        if not written.bytes:
            raise ApiError(400, "The file is empty.", param="file", code="invalid_value")
        new = NewFile(
            id=file_id,
            client_id=client,
            filename=(file.filename or "file.jsonl")[-255:],
            bytes=written.bytes,
            purpose=purpose,
            sha256=written.sha256,
            lives=limits.lives,
        )
        kept.append(store.files.add(new, most=limits.client_bytes))

    try:
        await call(folder.write, file_id, chunks(), most=limits.file_bytes, before=known)
    except TooLarge:
        message = f"The file is larger than {limits.file_bytes / MIB:,.0f} MiB, which is the limit."
        raise ApiError(413, message, param="file", code="file_too_large") from None
    except QuotaExceeded as error:
        raise _full(error.used, limits) from None
    except OSError as error:
        if kept:
            await call(store.files.delete, file_id, client)
        raise unavailable(f"The file can't be kept now: {error.strerror}", retry_after=30.0) from error
    return FileDocument.of(kept[0])


def _full(used: int, limits: FileLimits) -> ApiError:
    most = limits.client_bytes / MIB
    full = f"Your files have {used / MIB:,.0f} MiB, at most {most:,.0f} are kept: delete some."
    return ApiError(413, full, code="quota_exceeded")


def _lives(anchor: object, seconds: object, most: float | None) -> float | None:
    """For how long a file is kept: as its client asks (OpenAI's `expires_after`), but no longer than anything is."""
    if anchor is None and seconds is None:
        return most
    text = seconds if isinstance(seconds, str) else ""
    if anchor != "created_at" or not text.isdecimal() or not SHORTEST <= int(text[:12]) <= LONGEST:
        wanted = f"anchor 'created_at', and from {SHORTEST} to {LONGEST} seconds"
        raise ApiError(400, f"Invalid value for 'expires_after': it has {wanted}.", param="expires_after")
    return min(float(text), most) if most is not None else float(text)
