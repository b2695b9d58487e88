"""Certificates for workers that register: made here by the grid's CA, given once, kept nowhere."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from ...grid.certificate_files import NoCertificate, open_authority
from ...grid.config import Settings
from ...grid.peers import Role
from ..logs import logger
from ..tls import SCHEME, folder_of
from .donor_bodies import TlsDocument

if TYPE_CHECKING:
    from ...grid.certificates import Authority

log = logger(__name__)


class Certifier:
    """Gives a worker its certificate, on a grid whose Dask network has TLS. Thread-safe."""

    def __init__(self, settings: Settings, scheduler: str | None) -> None:
        """`scheduler`: the address that workers are told."""
        self._settings = settings
        self._wanted = settings.scheduler.tls and (scheduler or "").startswith(SCHEME)

    def __call__(self, worker_id: str) -> TlsDocument | None:
        """A new certificate. None without TLS, and where none can be made: then the log says why."""
        if not self._wanted:
            return None
        try:
            made = self._authority.issue(Role.WORKER, worker_id, datetime.now(UTC))
        except (NoCertificate, ValueError) as error:
            log.error("worker.no_certificate", worker=worker_id, reason=str(error))
            return None
        return TlsDocument(
            certificate=made.certificate, key=made.key, authority=made.authority, expires_at=made.expires_at
        )

    @cached_property
    def _authority(self) -> Authority:
        return open_authority(folder_of(self._settings), datetime.now(UTC))
