"""The task itself, in its own process: the job type's code, and a context that speaks to the worker."""

from __future__ import annotations

import errno
import json
import select
import socket
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ...grid.job_types import Cancelled, RunContext, job_type
from . import wire


class Line:
    """The context of a `RunContext`, over the line."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def cancelled(self) -> bool:
        """Whether the worker has said anything: it says nothing else."""
        return bool(select.select([self._line], [], [], 0)[0])

    def progress(self, facts: Mapping[str, Any]) -> None:
        wire.send(self._line, {"progress": True}, json.dumps(dict(facts)).encode())

    def tokens(self, text: str) -> None:
        wire.send(self._line, {"tokens": True}, text.encode())


def do(line: socket.socket, name: str, params: bytes) -> None:
    """Run the job type on its parameters and tell the end."""
    told = Line(line)
    context = RunContext(cancelled=told.cancelled, progress=told.progress, tokens=told.tokens)
    try:
        kind = job_type(name)
        result = kind.run(kind.Params.model_validate_json(params), context)
        wire.send(line, {"result": True}, result.model_dump_json().encode())
    except Cancelled:
        wire.send(line, {"failed": "cancelled"})
    except MemoryError:
        wire.send(line, {"failed": "limit", "limit": "memory"})
    except OSError as error:
        limit = {errno.EMFILE: "files", errno.EAGAIN: "processes", errno.ENOMEM: "memory"}.get(error.errno or 0)
        wire.send(line, {"failed": "limit", "limit": limit} if limit else _error(error))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        wire.send(line, {"failed": "invalid", "message": f"{place}: {first['msg']}"[:500]})
    except ValueError as error:
        wire.send(line, {"failed": "invalid", "message": str(error)[:500]})
    except Exception as error:  # noqa: BLE001 - a task may raise anything
        wire.send(line, _error(error))


def _error(error: BaseException) -> dict[str, str]:
    return {"failed": "error", "message": f"{type(error).__name__}: {error}"[:500]}
