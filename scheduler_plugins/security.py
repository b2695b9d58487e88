"""What a part of the grid shows and demands on the Dask network: its certificate, its peers' roles, TLS 1.3."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

from distributed.security import Security

from ..grid.certificate_files import Paper
from ..grid.peers import Role
from . import private_api
from .gate import Gate
from .gated_comm import install

VARIABLE = "IDLEGRID_TLS_CERTIFICATE"
"""Environment variable with the file of a worker process's certificate; its CA's lies beside it."""


def worker_security(address: str, file: Path | None = None) -> GridSecurity | None:
    """What a worker shows to the scheduler at `address` and to others: the certificate in `file`, None: in the file
    that `VARIABLE` names. None where there is no TLS, or Dask's own settings are to see to it. Raises NoCertificate.
    """
    named = file or os.environ.get(VARIABLE)
    if not address.startswith("tls://") or not named:
        return None
    return GridSecurity(Path(named), Role.WORKER, address)


class LiveContext(ssl.SSLContext):
    """A TLS context whose certificate is read again when its file was replaced: connections that are there stay,
    new ones show the new certificate, and nothing is restarted.
    """

    paper: Paper
    _seen: tuple[int, int] | None = None

    @classmethod
    def of(cls, paper: Paper, *, server: bool) -> LiveContext:
        """For who listens, or for who connects. Raises NoCertificate, and ssl.SSLError for files that hold none."""
        context = cls(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the CA is the grid's alone, and roles are checked instead of names
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if server:
            context.num_tickets = 0  # no session outlives its certificate
        context.paper = paper
        paper.check()
        context._refresh()
        return context

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        self._refresh()
        return super().wrap_socket(*args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self._refresh()
        return super().wrap_bio(*args, **options)

    def _refresh(self) -> None:
        try:
            found = self.paper.file.stat()
            seen = (found.st_mtime_ns, found.st_ino)
            if seen != self._seen:
                self.load_verify_locations(self.paper.authority)
                self.load_cert_chain(self.paper.file)
                self._seen = seen
        except (OSError, ssl.SSLError):
            if self._seen is None:
                raise  # a certificate that was there is shown until there is another


class GridSecurity(Security):  # type: ignore[misc]
    """Dask's `Security` for one role: the same certificate whether it connects or listens, and its gate."""

    def __init__(self, paper: Path | Paper, role: Role, scheduler: str | None = None) -> None:
        """`paper`: of this process; `scheduler`: its address, at which nobody but a scheduler may answer.

        Raises NoCertificate, and RuntimeError on a release of distributed for which the gate was not written.
        """
        private_api.check()
        install()
        self.paper = paper if isinstance(paper, Paper) else Paper(paper)
        self.paper.check()
        self.role, self.scheduler = role, scheduler
        self.gate = Gate(role, scheduler)
        self._contexts: dict[bool, LiveContext] = {}
        own = str(self.paper.file)
        named = {f"tls_{one}_{kind}": own for one in ("client", "scheduler", "worker") for kind in ("cert", "key")}
        super().__init__(
            require_encryption=True,
            tls_ca_file=str(self.paper.authority),
            tls_min_version=ssl.TLSVersion.TLSv1_3,
            **named,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.paper, self.role, self.scheduler)

    def get_connection_args(self, role: str = "") -> dict[str, Any]:
        """For who connects, as this process's own role whatever Dask calls it."""
        return {"ssl_context": self._context(server=False), "require_encryption": True, "gate": self.gate}

    def get_listen_args(self, role: str = "") -> dict[str, Any]:
        """For who listens."""
        return {"ssl_context": self._context(server=True), "require_encryption": True, "gate": self.gate}

    def _context(self, *, server: bool) -> LiveContext:
        if server not in self._contexts:
            self._contexts[server] = LiveContext.of(self.paper, server=server)
        return self._contexts[server]
