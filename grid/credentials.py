"""What a donor's machine holds to prove who it is: tokens and a signing secret in a file of its owner's alone."""

from __future__ import annotations

import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import httpx

from .signing import TOKEN, signed_headers

VARIABLE = "IDLEGRID_CREDENTIALS"
"""The environment variable that tells a worker process where the file lies."""


class BadCredentials(Exception):
    """The file can't be used. The message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One registration of this machine at one grid."""

    worker_id: str
    server: str
    """Base URL of the grid's HTTP service, without a slash at the end."""
    token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    signing_secret: str = field(repr=False)
    """As the server told it; its ASCII bytes are the key of the HMAC (`key`)."""
    token_expires_at: datetime
    """Aware."""

    @property
    def key(self) -> bytes:
        """The secret as the key of signatures and tickets."""
        return self.signing_secret.encode()

    @classmethod
    def load(cls, path: Path) -> Credentials:
        """Read the file. Raises FileNotFoundError, and BadCredentials when others can read it or it holds none."""
        try:
            mode, text = path.stat().st_mode, path.read_text()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BadCredentials(f"{path} can't be read: {error.strerror or error}") from error
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BadCredentials(f"others can read {path} (mode {stat.S_IMODE(mode):o}): chmod 600 it")
        try:
            said = json.loads(text)
            return cls(**{**said, "token_expires_at": datetime.fromisoformat(said["token_expires_at"])})
        except (ValueError, TypeError, KeyError) as error:
            raise BadCredentials(f"{path} holds no credentials: join the grid again (gpu-worker join)") from error

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all, readable by its owner only. Raises OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        said = {**asdict(self), "token_expires_at": self.token_expires_at.isoformat()}
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(said, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


class Signer(httpx.Auth):
    """Signs the requests of one worker with the credentials in a file, which another process may renew at any time.

    An `auth` for clients of httpx, or `headers` for one request. Thread-safe.
    """

    requires_request_body = True

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """`clock`: Unix seconds. The file is read when it is needed first."""
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._held: Credentials | None = None

    @classmethod
    def from_environment(cls) -> Signer | None:
        """The one that `IDLEGRID_CREDENTIALS` names; None: this process works for no registered worker."""
        path = os.environ.get(VARIABLE)
        return cls(Path(path)) if path else None

    @property
    def credentials(self) -> Credentials:
        """What the file holds now. Raises FileNotFoundError and BadCredentials."""
        with self._lock:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if self._held is None or seen != self._seen:
                self._held, self._seen = Credentials.load(self._path), seen
            return self._held

    def headers(self, method: str, url: httpx.URL | str, body: bytes = b"") -> dict[str, str]:
        """The token and the signature of one request, which httpx sends as given here. Good once, for a few minutes."""
        held, url = self.credentials, httpx.URL(url)
        return self._headers(held, method, url.netloc.decode("ascii"), url.raw_path, body)

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        """For httpx: the request as it goes out, signed."""
        host, raw = request.headers["Host"], request.url.raw_path
        request.headers.update(self._headers(self.credentials, request.method, host, raw, request.content))
        yield request

    def _headers(self, held: Credentials, method: str, host: str, raw: bytes, body: bytes) -> dict[str, str]:
        path, _, query = raw.partition(b"?")
        signature = signed_headers(
            held.key,
            key_id=held.worker_id,
            method=method,
            host=host,
            raw_path=path,
            raw_query=query,
            body=body,
            timestamp=int(self._clock()),
            nonce=secrets.token_urlsafe(16),
        )
        return {TOKEN: held.token, **signature}
