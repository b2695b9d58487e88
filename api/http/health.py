"""`/healthz`: the process lives. `/readyz`: it can serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter

from .models import Models, check_ready


def health_router(kinds: Sequence[Models], check: Callable[[], Awaitable[None]] | None = None) -> APIRouter:
    """The routes, bound to what answers them; `check` raises when what the service stands on is away."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 as long as the process answers."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> dict[str, str]:
        """200 when at least one worker can take work, else 503 with the reason."""
        if check is not None:
            await check()
        await check_ready(kinds)
        return {"status": "ready"}

    return router
