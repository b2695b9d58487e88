"""Server-sent events out of bytes, as the HTML standard reads them. Pure: bytes in, messages out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One event of a stream."""

    event: str
    """``message`` where the server named none."""
    data: str
    id: str
    """The last id that the stream gave, here or before; empty: none yet."""


class Decoder:
    """Reads one stream, however its bytes are cut.

    Own code because lines end at ``\\n``, ``\\r\\n`` or ``\\r`` and nowhere else: what Python and httpx take for a line
    (U+2028 in the middle of a text, for one) would tear an event in two.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The events that are whole with these bytes. What the end of a stream cuts off is never an event."""
        text = self._rest + chunk
        held = text.endswith(b"\r")  # perhaps the first half of \r\n
        lines = (text[:-1] if held else text).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + (b"\r" if held else b"")
        for line in lines:
            message = self._line(line.decode(errors="replace"))
            if message is not None:
                yield message

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "event":
            self._fields["event"] = value
        return None

    def _dispatch(self) -> Message | None:
        fields, data = self._fields, self._data
        self._fields, self._data = {}, []
        return Message(fields.get("event") or "message", "\n".join(data), self._id) if data else None
