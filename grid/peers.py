"""Who is at the other end of a TLS connection: the role and the name that the grid's CA wrote into a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a certificate lets its holder be; it stands in the certificate as its organizational unit (OU)."""

    SCHEDULER = "scheduler"
    WORKER = "worker"
    """A donor's machine: it computes, and may ask for nothing that is not its own."""
    CLIENT = "client"
    """Operators and notebooks. Whoever holds one can run code on every machine of the grid."""
    API = "api"
    """The HTTP service and the dispatcher: a client that is a part of the grid."""

    @property
    def listens(self) -> bool:
        """Whether others connect to it."""
        return self in (Role.SCHEDULER, Role.WORKER)


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody with a certificate."""

    role: Role
    name: str
    """The certificate's common name (CN): of a worker, its id."""

    def __str__(self) -> str:
        return f"{self.role} {self.name!r}"

    def owns(self, donor_id: str) -> bool:
        """Whether it may speak as this donor: by its own name, or one below (``name/0``) for one of several workers."""
        return donor_id == self.name or donor_id.startswith(f"{self.name}/")


def peer_of(certificate: Mapping[str, Any] | None) -> Peer | None:
    """Whose certificate it is, in the form of `ssl.SSLSocket.getpeercert`.

    None for no certificate, and for one that does not name exactly one role of ours and one holder.
    """
    said: dict[str, list[str]] = {}
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            said.setdefault(key, []).append(value)
    roles, names = said.get("organizationalUnitName", []), said.get("commonName", [])
    if len(roles) != 1 or len(names) != 1 or not names[0] or roles[0] not in set(Role):
        return None
    return Peer(Role(roles[0]), names[0])
