"""The settings as the limits of each door: what may wait, what may be kept, and who may be called by which name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from platformdirs import user_data_path

from ...grid.config import Settings
from ...grid.config.service import Api
from .audio import PATH as AUDIO
from .audio_params import MARGIN, MIB
from .batching import BatchLimits
from .edge import LOOPBACK
from .files import PATH as FILES
from .files import FileLimits
from .worker_doors import RESULT_MARGIN

RESULTS = "/api/v1/workers/"
WITH_MEDIA = ("/api/v1/jobs", "/api/v1/jobs/sync", "/v1/chat/completions")
"""Where sound and pictures come in Base64."""
WAITING_AUDIO = 512 * MIB
"""Bytes of recordings that may wait in one process; beyond it 429."""
IMAGES_TOGETHER = 4
"""Pictures in one task."""
WAITING_PIXELS = 1024 * 1024 * 1024
"""Pixels of pictures that may wait to be drawn; beyond it 429."""


def text_limits(settings: Settings) -> BatchLimits:
    """The limits of texts that wait for their vectors."""
    return _waiting(settings, size=settings.api.max_queue_chars)


def speech_limits(settings: Settings) -> BatchLimits:
    """The limits of recordings that wait: as many as of texts may be on their way, of a bounded size."""
    return _waiting(settings, size=WAITING_AUDIO)


def image_limits(settings: Settings) -> BatchLimits:
    """The limits of pictures that wait: few in a task, so that those of one request go to several workers."""
    return _waiting(settings, size=WAITING_PIXELS, together=IMAGES_TOGETHER)


def _waiting(settings: Settings, *, size: int, together: int | None = None) -> BatchLimits:
    """`size`: of all that waits, in characters, bytes or pixels. `together`: the most in a batch."""
    batch, api = settings.inference.batch, settings.api
    return BatchLimits(
        max_batch=min(together or batch.max_batch_size, batch.max_batch_size),
        max_wait=batch.max_wait_ms / 1000,
        max_in_flight=api.max_batches_in_flight,
        max_items=api.max_queue,
        max_chars=size,
    )


def files_folder(settings: Settings) -> Path:
    """Where clients' files lie."""
    return settings.jobs.files_folder or user_data_path("idlegrid", appauthor=False) / "files"


def file_limits(settings: Settings) -> FileLimits:
    """What a client may keep, from the settings."""
    jobs = settings.jobs
    return FileLimits(
        file_bytes=int(jobs.max_file_mb * 1_000_000),
        client_bytes=int(jobs.max_files_gb * 1_000_000_000),
        lives=jobs.retention_days * 86_400,
    )


def largest_body(settings: Settings) -> Callable[[str], int]:
    """How large a request may be at a path: results and recordings are larger than what clients send else."""
    usual = int(settings.api.max_body_mb * 1_000_000)
    result = max(usual, int(settings.jobs.max_result_mb * 1_000_000) + RESULT_MARGIN)
    audio = int(settings.api.max_audio_mb * MIB) + MARGIN
    file = file_limits(settings).file_bytes + MARGIN
    media = usual + int(settings.fetch.max_mb * 1_000_000 * 4 / 3)  # in Base64

    def at(path: str) -> int:
        if path.startswith(AUDIO):
            return audio
        if path == FILES:
            return file
        if path in WITH_MEDIA:
            return media
        return result if path.startswith(RESULTS) and path.endswith("/complete") else usual

    return at


def known_hosts(api: Api) -> Collection[str] | None:
    """Host names that may be called; None: any."""
    if api.allowed_hosts is not None:
        return None if "*" in api.allowed_hosts else frozenset(name.lower() for name in api.allowed_hosts)
    return LOOPBACK | {api.host.lower()} if api.on_loopback else None
