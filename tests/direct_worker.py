"""A worker that offers direct mode: the real endpoint on loopback, in this process, with job types without models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, ConfigDict

from idlegrid.api.donor.direct import Endpoint
from idlegrid.api.donor.direct_server import DirectServer
from idlegrid.api.donor.direct_work import NoPlace, Trouble
from idlegrid.api.donor.spent_tickets import SpentTickets
from idlegrid.grid.acceptance import decide, standing
from idlegrid.grid.config.donor import Direct
from idlegrid.grid.credentials import Credentials
from idlegrid.grid.donors import Donor, Limits, Load
from idlegrid.grid.job_types import ALONE, JobType, RunContext, UnknownJobTypeError
from idlegrid.grid.jobs import Ask
from idlegrid.grid.tickets import Ticket, mint
from idlegrid.grid.verdicts import Verdict

PATIENCE = 60.0
MAX_BODY = 100_000


class Params(BaseModel):
    """What `Words` is asked for."""

    model_config = ConfigDict(extra="forbid")

    texts: list[str]
    stream: bool = False
    hold: bool = False
    """Work until it is told to stop."""
    trouble: str | None = None
    """Raise this in the middle."""


class Words(BaseModel):
    """What it gives."""

    words: list[str]


class WordsJob:
    """A job type that says its texts word by word, in capitals."""

    Params, Result = Params, Words

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = threading.Event()
        self.stopped = threading.Event()
        self.runs = 0
        self.salts: list[str] = []

    def ask(self, params: Any) -> Ask:
        return Ask(type=self.name)

    def run(self, params: Any, context: RunContext = ALONE) -> BaseModel:
        self.runs += 1
        self.salts.append(context.salt)
        self.began.set()
        try:
            words = [word.upper() for text in params.texts for word in text.split()]
            for number, word in enumerate(words):
                context.tokens(word)
                if params.trouble and number == len(words) // 2:
                    raise (ValueError if params.trouble == "params" else RuntimeError)(params.trouble)
            deadline = threading.Event()
            while params.hold:
                context.check()
                deadline.wait(0.01)
            return Words(words=words)
        finally:
            self.stopped.set()


@dataclass
class LimitedPlaces:
    """The places of one donor, by the grid's own rules."""

    donor: Donor
    load: Load = field(default_factory=Load)
    left: list[tuple[str, str]] = field(default_factory=list)
    """Names of works that ended, with their outcomes."""
    stops: dict[str, Callable[[str], None]] = field(default_factory=dict)

    def standing(self) -> Verdict:
        return standing(self.donor, self.now(), datetime.now(UTC))

    def now(self) -> Load:
        return Load(running=self.load.running + len(self.stops), paused=self.load.paused)

    def take(self, ask: Ask, name: str, stop: Callable[[str], None]) -> Callable[[str], None]:
        verdict = decide(ask, self.donor, self.now(), datetime.now(UTC), 0.0)
        if not verdict:
            raise NoPlace(verdict)
        self.stops[name] = stop

        def leave(outcome: str) -> None:
            self.stops.pop(name, None)
            self.left.append((name, outcome))

        return leave


class Unchecked(Endpoint):
    """The control: an endpoint that looks at no ticket."""

    def _open(self, text: str, name: str) -> Ticket:
        return Ticket(worker_id="", client_id="", job_type=name, expires_at=datetime.now(UTC), nonce="")


class Refusing(Endpoint):
    """An endpoint that takes no ticket."""

    def _checked(self, text: str, name: str) -> Ticket:
        raise Trouble(401, "invalid_ticket", "it is never good here")


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(pem))
    files[1].write_bytes(key.private_bytes(pem, plain, serialization.NoEncryption()))
    return files


@dataclass
class DirectWorker:
    """The worker, and what its clients need."""

    url: str
    places: LimitedPlaces
    kinds: Mapping[str, WordsJob]
    credentials: Credentials

    def ticket(self, job_type: str = "llm", seconds: float = 60, **said: Any) -> str:
        """A ticket as the service makes it."""
        worker, client = said.get("worker_id", self.credentials.worker_id), said.get("client_id", "c-1")
        secret, nonce = said.get("secret", self.credentials.key), said.get("nonce", uuid4().hex)
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        told = Ticket(worker_id=worker, client_id=client, job_type=job_type, expires_at=expires, nonce=nonce)
        return mint(secret, told)


def credentials(worker_id: str = "w-1", secret: str = "a signing secret of the tests") -> Credentials:
    """What a registered worker holds."""
    return Credentials(
        worker_id=worker_id,
        server="http://127.0.0.1:1",
        token="t",
        refresh_token="r",
        signing_secret=secret,
        token_expires_at=datetime.now(UTC) + timedelta(hours=1),
    )


@contextmanager
def direct_worker(
    folder: Path,
    held: Credentials | None = None,
    *,
    limits: Limits | None = None,
    endpoint: type[Endpoint] = Endpoint,
    kinds: Mapping[str, WordsJob] | None = None,
    tls: bool = False,
) -> Iterator[DirectWorker]:
    """A worker that serves until the block ends. `folder` keeps its tickets, and its certificate."""
    folder.mkdir(exist_ok=True)
    held = held or credentials()
    known = {name: WordsJob(name) for name in ("llm", "embedding")} if kinds is None else kinds
    donor = Donor(id=held.worker_id, supported_types=frozenset(known), limits=limits or Limits())
    places, spent = LimitedPlaces(donor), SpentTickets(folder / "spent", datetime.now(UTC))

    def kind(name: str) -> JobType:
        if name not in known:
            raise UnknownJobTypeError(name)
        return known[name]

    certificate, key = self_signed(folder) if tls else (None, None)
    direct = Direct(enabled=True, host="127.0.0.1", port=0, tls_cert=certificate, tls_key=key)
    server = DirectServer(endpoint(places, lambda: held, spent, max_body=MAX_BODY, kinds=kind).app, direct)
    server.start()
    try:
        yield DirectWorker(server.url, places, known, held)
    finally:
        for stop in list(places.stops.values()):
            stop("the test is over")
        server.stop()
