"""What is known of one request's answer: enough to go on elsewhere, and to tell what is new from what is late."""

from __future__ import annotations

from dataclasses import replace

from ...actors.llm.request import Event, Finished, FinishReason, Request
from ...actors.serving.errors import StreamLost


class Journal:
    """The tokens that were given out, and the number of the attempt that may add to them. No clock, no I/O.

    An event counts only if it comes from the current attempt and follows on what is known: so a replica that was given
    up and wakes again adds nothing, and no token is lost or given twice.
    """

    def __init__(self, request: Request, service: str = "") -> None:
        """`service`: sets the ids of this service's attempts apart from those of others on the same engine."""
        self._request = request
        self._service = service
        self.known: list[int] = list(request.known)
        self.attempt = 0
        self.ended = False
        """The terminal event was given."""

    def begin(self, timeout: float | None) -> Request:
        """A new attempt, the only one that counts from now on: what to ask of its replica."""
        self.attempt += 1
        id_ = f"{self._request.id}.{self._service}.{self.attempt}"
        return replace(self._request, id=id_, known=tuple(self.known), timeout=timeout)

    def take(self, attempt: int, at: int, event: Event) -> Event | None:
        """What of an event is to be given out: `event` itself, or None for one that is late.

        `at`: how many tokens of the answer precede it. Raises StreamLost when tokens are missing or overlap, and when
        the replica ended the request without having finished it: it must then go on elsewhere.
        """
        if attempt != self.attempt or self.ended:
            return None
        if isinstance(event, Finished):
            return self._finish(at, event)
        if event.ids and at + len(event.ids) <= len(self.known):
            return None
        if at != len(self.known):
            raise StreamLost(f"the replica went on at token {at}, but {len(self.known)} are known")
        self.known += event.ids
        return event

    def fail(self, reason: FinishReason, error: str | None = None) -> Finished:
        """The terminal event when no replica gives one."""
        self.ended = True
        return Finished(
            reason=reason,
            prompt_tokens=len(self._request.prompt),
            completion_tokens=len(self.known),
            error=error,
        )

    def _finish(self, at: int, event: Finished) -> Finished:
        if event.reason is FinishReason.ABORTED:  # not by us: we would have closed the attempt
            raise StreamLost("the replica aborted the request")
        if event.reason is FinishReason.ERROR:
            raise StreamLost(event.error or "the replica failed")
        if at != len(self.known):
            raise StreamLost(f"the replica ended at token {at}, but {len(self.known)} are known")
        self.ended = True
        return event
