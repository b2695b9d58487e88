"""Structured logs: one JSON object a line, with the trace's id, and nothing that a client wrote."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, TextIO

import structlog
from structlog.types import EventDict, WrappedLogger

_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of events with fields: ``log.info("job.accepted", job_id=…)``. Goes through the standard library's."""
    wrapped: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return wrapped


def configure(level: str = "info", stream: TextIO | None = None) -> logging.Handler:
    """Let everything that is logged in this process be written as JSON lines, to stderr unless told otherwise.

    `level` is for our own events; of libraries, warnings are enough. Replaces the root logger's handlers; returns the
    new one.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=list(_SHARED),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _where_it_failed,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("idlegrid").setLevel(level.upper())
    return handler


def _where_it_failed(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """An exception as its kinds and places. Not its words: those of a database or a validator quote their input."""
    found = event.pop("exc_info", None)
    error = found[1] if isinstance(found, tuple) else found if isinstance(found, BaseException) else None
    if found is True:
        error = sys.exc_info()[1]
    if error is not None:
        event["exception"] = type(error).__name__
        event["causes"] = [type(cause).__name__ for cause in _causes(error)]
        event["frames"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-20:]
        ]
    return event


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(causes) < 5:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes
