"""Asking a worker what a model is and how fast, before any of it is used: patient with workers, not with bad models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from distributed import CancelledError, KilledWorker, wait

from .calibration import Calibration, calibrate
from .errors import BulkError, GridUnavailable, InputError
from .operators import OperatorSpec
from .source import SourceFile, Storage
from .watch import POLL, Watch, ask_for


def find_out(
    client: Any,
    spec: OperatorSpec,
    watch: Watch,
    storage: Storage | None = None,
    files: Sequence[SourceFile] = (),
    column: str = "",
) -> Calibration:
    """What one worker says of `spec`, timed on rows of `files`; a row may kill it, then without them.

    Raises InputError for a model that can't be used, GridUnavailable.
    """
    for sample in (files, (), ()):
        with ask_for(spec):
            future = client.submit(calibrate, spec, storage, sample, column, pure=False)
        try:
            while future.status == "pending":
                with suppress(TimeoutError), client.as_current():  # `wait` knows no other client
                    wait(future, timeout=POLL)
                watch.look([future.key])
            found: Calibration = future.result()
        except KilledWorker:
            continue
        except CancelledError:
            raise GridUnavailable("the connection to the scheduler is lost. Start the grid again") from None
        except BulkError:
            raise
        except Exception as failed:
            raise InputError(f"a worker can't use {spec.model}: {failed}") from failed
        else:
            return found
        finally:
            future.cancel()
    raise GridUnavailable(f"every worker that loads {spec.model} dies: has it the memory?")
