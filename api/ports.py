"""Ports that a part of the grid listens on: a taken one is told before anything is started."""

from __future__ import annotations

import errno
import socket

LOOPBACK = "127.0.0.1"


class CannotStart(Exception):
    """A part of the grid can't start here. The message says why, and what to do."""


def obstacle(host: str, port: int) -> OSError | None:
    """Why nobody could listen on `port` of `host` now; None when it is free, or 0: any free one."""
    if port == 0:
        return None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def check_free(host: str, port: int, how: str) -> None:
    """Raises CannotStart when nobody could listen there; `how` says what names another port."""
    error = obstacle(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        what = f"port {port} of {host} is taken: is a grid running already?"
    else:
        what = f"can't listen on {host}:{port} ({error.strerror or error})."
    raise CannotStart(f"{what} Choose another port with {how}; 0 takes any free one")


class Reserved:
    """A port that stays ours while what listens on it is started again.

    Bound but not listening: whoever says SO_REUSEADDR, as every server does, may listen on it, and the system gives it
    to no outgoing connection meanwhile. (*Measured*: on loopback a free port of the usual range is soon somebody's.)
    """

    def __init__(self, host: str, port: int, how: str) -> None:
        """`port` 0: any free one. Raises CannotStart when it is taken; `how` says what names another."""
        check_free(host, port, how)
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            raise CannotStart(f"can't listen on {host}:{port} ({error.strerror or error})") from error
        self.host = host
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it up."""
        self._socket.close()
