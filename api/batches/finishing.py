"""The end of a batch: its parts become the output and the error file, which appear together with its status."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from ...grid.batch_rules import BatchStatus
from ...grid.failpoints import failpoint
from ...grid.store import BatchPart, BatchRecord, NewFile, Store
from .folder import FileFolder, Written, output_name
from .lines import Survey, not_computed, parse

_WHY = {
    BatchStatus.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    BatchStatus.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was executed."),
}


class Finisher:
    """Puts output files together. May be killed and called again at any point. Each holder of the lease writes files of
    its own, so one that was frozen and wakes changes nothing of what another one has told."""

    def __init__(self, store: Store, folder: FileFolder, lives: float | None) -> None:
        self._store, self._folder, self._lives = store, folder, lives

    async def finish(self, batch: BatchRecord, status: BatchStatus, found: Survey) -> bool:
        """Bring a batch to this end. False: it is another's by now. Raises StoreUnavailable, OSError."""
        return await asyncio.to_thread(self._finish, batch, status, found)

    def _finish(self, batch: BatchRecord, status: BatchStatus, found: Survey) -> bool:
        parts = self._store.batches.parts(batch.id)
        completed, failed = sum(part.completed for part in parts), sum(part.failed for part in parts)
        left = max(0, found.lines - completed - failed) if not found.problems else 0
        total = found.lines if not found.problems else None
        output = self._file(batch, "output", "out", parts) if completed else None
        error = None
        if failed or left:
            missing = _missing(self._folder, batch, status, found, {part.part for part in parts}) if left else ()
            error = self._file(batch, "error", "err", parts, missing)
        moved = self._store.batches.move(
            batch.id, batch.fence, status, total=total, counts=(completed, failed + left), output=output, error=error
        )
        for file in (output, error):
            if moved is None and file is not None:
                self._folder.delete(file.id)
        if moved is None:
            return False
        failpoint("batches.ended")
        self._folder.clear(batch.id, {file.id for file in (output, error) if file is not None})
        return True

    def _file(
        self, batch: BatchRecord, word: str, kind: str, parts: Sequence[BatchPart], more: Iterable[bytes] = ()
    ) -> NewFile:
        file_id = output_name(batch.id, batch.fence, kind)

        def content() -> Iterator[bytes]:
            yield from self._folder.join_parts(batch.id, [(part.part, part.fence) for part in parts], kind)
            yield from more

        written: Written = self._folder.write(file_id, content())
        return NewFile(
            id=file_id,
            client_id=batch.client_id,
            filename=f"{batch.id}_{word}.jsonl",
            bytes=written.bytes,
            purpose="batch_output",
            sha256=written.sha256,
            lives=self._lives,
        )


def _missing(
    folder: FileFolder, batch: BatchRecord, status: BatchStatus, found: Survey, done: set[int]
) -> Iterator[bytes]:
    """Error lines of the requests that nobody computed."""
    code, message = _WHY[status]
    for part, (start, stop) in enumerate(zip(found.offsets, found.offsets[1:], strict=False)):
        if part in done:
            continue
        for number, raw in enumerate(folder.input_lines(batch.id, start, stop), found.numbers[part]):
            if raw.strip():
                yield not_computed(batch.id, parse(raw, number, batch.endpoint), code, message)
