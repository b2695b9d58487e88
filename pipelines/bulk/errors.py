"""What can go wrong in a bulk job. Each message says what happened, with which value, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping


class BulkError(Exception):
    """A bulk job can't start or did not finish. `str()` is meant for the user."""


class InputError(BulkError):
    """The source, or an option, can't be used. Raised before anything is computed."""


class CorruptInput(InputError):
    """Bytes of a source file can't be trusted: torn, changed, or a page's checksum does not match."""


class TargetError(BulkError):
    """The target folder can't be used: it belongs to another job, or can't be written."""


class WorkerTrouble(BulkError):
    """One worker could not do its unit, for reasons of its own (no space, no access). Another one may."""

    def __init__(self, message: str, worker: str = "") -> None:
        super().__init__(message, worker)
        self.message, self.worker = message, worker
        """What happened, and the address of the worker, if it is known."""

    def __str__(self) -> str:
        return self.message


class GridUnavailable(BulkError):
    """No scheduler, or no worker that takes this work, within the time allowed. The job can be resumed."""


class TooManyErrors(BulkError):
    """More rows have an error than `max_error_ratio` allows. The parts that exist stay."""


class JobIncomplete(BulkError):
    """Some units failed for good; all others are done. Mend the cause and run the same job again."""

    def __init__(self, message: str, failures: Mapping[str, str] | None = None) -> None:
        super().__init__(message, failures)
        self.message = message
        self.failures: Mapping[str, str] = failures or {}
        """Part name → why its unit failed."""

    def __str__(self) -> str:
        return self.message
