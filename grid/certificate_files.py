"""Where certificates lie: a folder with the CA's certificate, one file for each holder, and the CA's key where it is.

::

    ca.pem          the CA's certificate: everybody of the grid has it
    ca.key          its key and certificate, 0600: only where certificates are made
    <name>.pem      key and certificate of one holder, 0600
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .private_file import make_private, readable_by_others, write_private

if TYPE_CHECKING:  # cryptography is needed where certificates are made or read, not where they are shown
    from .certificates import Authority, Certified, Issued
    from .peers import Role

AUTHORITY, AUTHORITY_KEY = "ca.pem", "ca.key"


class NoCertificate(Exception):
    """A certificate, or the CA, is not where it should be or can't be used. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Paper:
    """The certificate of one holder on disk, beside its CA's."""

    file: Path
    """Key and certificate, PEM, 0600."""

    @property
    def authority(self) -> Path:
        """The CA's certificate."""
        return self.file.with_name(AUTHORITY)

    @property
    def holder(self) -> str:
        """Whose it is. Raises NoCertificate."""
        if (said := self.read()) is None:
            raise NoCertificate(f"{self.file} holds no certificate of a grid")
        return said.peer.name

    def check(self) -> None:
        """Raise NoCertificate when a file is missing, or others can read the key."""
        for path in (self.file, self.authority):
            if not path.is_file():
                raise NoCertificate(
                    f"{path} is missing: copy the files that `idlegrid admin certificate` makes on the grid's machine, "
                    "and name their folder with IDLEGRID_SCHEDULER_TLS_FOLDER"
                )
        if readable_by_others(self.file):
            raise NoCertificate(f"others can read the key in {self.file}: chmod 600 it")

    def save(self, certificate: str, key: str, authority: str) -> None:
        """Keep what was issued (PEM); the key is never on disk without its certificate. Raises OSError."""
        write_private(self.authority, authority.encode())
        write_private(self.file, (key + certificate).encode())

    def read(self) -> Certified | None:
        """What the certificate says; None when there is none that can be read."""
        from .certificates import BadCertificate, certified

        try:
            return certified(self.file.read_text())
        except (OSError, UnicodeDecodeError, BadCertificate):
            return None


def open_authority(folder: Path, now: datetime) -> Authority:
    """The CA in `folder`, made if there is none: processes that start at once agree on one. Raises NoCertificate."""
    from .certificates import Authority, BadCertificate

    path = folder / AUTHORITY_KEY
    try:
        if not path.exists():
            if (folder / AUTHORITY).exists():
                raise NoCertificate(
                    f"{folder} holds no CA, only certificates of one: make more with `idlegrid admin certificate` on "
                    "the machine that has the grid's ca.key"
                )
            make_private(path, Authority.make(now).to_pem().encode())
        if readable_by_others(path):
            raise NoCertificate(f"others can read the CA's key in {path}: chmod 600 it")
        return Authority.from_pem(path.read_text())
    except (OSError, UnicodeDecodeError, BadCertificate) as error:
        raise NoCertificate(f"the CA in {path} can't be used: {error}") from error


def renew(folder: Path, role: Role, name: str, now: datetime, *, file: str | None = None, found: bool = True) -> Paper:
    """A certificate that is good for a while, in `folder`: the one that lies there, or a new one of the CA.

    `file`: its name without an ending, unless it is the role's. `found`: whether to make a CA where there is nothing
    yet. Raises NoCertificate.
    """
    paper = Paper(folder / f"{file or role.value}.pem")
    if not (folder / AUTHORITY_KEY).exists() and (paper.file.exists() or not found):
        paper.check()
        return paper  # another machine's CA made it, and another hand will renew it
    held = paper.read()
    if held is None or held.due(now) or held.peer.role is not role or held.peer.name != name:
        made: Issued = open_authority(folder, now).issue(role, name, now)
        paper.save(made.certificate, made.key, made.authority)
    paper.check()
    return paper
