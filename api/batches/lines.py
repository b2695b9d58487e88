"""The lines of a batch's files: requests in, answers and errors out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pydantic_core import from_json, to_json

MAX_LINE = 8 * 1024 * 1024
"""Bytes of one request."""
PART_BYTES = 2 * 1024 * 1024
"""Bytes of one part's requests: what is in memory of each part under way, many times over."""
MAX_PROBLEMS = 100
"""Bad lines that are told; the others are not looked at."""
_FIELDS = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch."""

    number: int
    """From 1, as editors count."""
    custom_id: str
    body: Mapping[str, Any]
    client_id: str = ""
    """Whose batch it is."""


class BadLine(ValueError):
    """A line is no request."""

    def __init__(self, number: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.number, self.code, self.param = number, code, param

    def document(self) -> dict[str, Any]:
        """As OpenAI's `errors.data` has it."""
        return {"code": self.code, "message": str(self), "param": self.param, "line": self.number}


def parse(raw: bytes, number: int, endpoint: str, client_id: str = "") -> Line:
    """Read a line. Raises BadLine."""
    if len(raw) > MAX_LINE:
        raise BadLine(number, "line_too_long", f"This line has {len(raw):,} bytes, at most {MAX_LINE:,} are allowed.")
    try:
        value = from_json(raw)
    except ValueError:
        raise BadLine(number, "invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(value, dict):
        raise BadLine(number, "invalid_json_line", "This line is not a JSON object.")
    missing = sorted(_FIELDS - set(value))
    if missing:
        raise BadLine(number, "missing_required_parameter", f"This line lacks {', '.join(missing)}.", missing[0])
    custom_id, body = value["custom_id"], value["body"]
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 512:
        raise BadLine(number, "invalid_value", "custom_id must be a text of 1 to 512 characters.", "custom_id")
    if value["method"] != "POST":
        raise BadLine(number, "invalid_method", "Only the method POST is supported.", "method")
    if value["url"] != endpoint:
        raise BadLine(number, "mismatched_url", f"The URL of this line is not the batch's endpoint {endpoint}.", "url")
    if not isinstance(body, dict):
        raise BadLine(number, "invalid_value", "body must be a JSON object.", "body")
    if body.get("stream"):
        raise BadLine(number, "invalid_value", "A batch can't stream: leave `stream` out.", "stream")
    return Line(number, custom_id, body, client_id)


@dataclass(slots=True)
class Survey:
    """What one look at the whole input found."""

    offsets: list[int] = field(default_factory=list)
    """Byte at which each part begins, and the end of the last one."""
    numbers: list[int] = field(default_factory=list)
    """Number of the line at which each part begins."""
    lines: int = 0
    """Requests; empty lines are none."""
    problems: list[BadLine] = field(default_factory=list)


def survey(
    raw: Iterable[bytes],
    endpoint: str,
    *,
    part_lines: int,
    most: int,
    weigh: Callable[[Mapping[str, Any]], int] = lambda body: 1,
) -> Survey:
    """Check every line, and cut the input into parts: of requests that weigh `part_lines`, of `PART_BYTES`, or of one
    line. `most`: requests that are allowed, and what they may weigh together."""
    found, seen = Survey(), set[bytes]()
    position = begun = weight = whole = 0
    for number, line in enumerate(raw, 1):
        if line.strip():
            if not found.offsets or weight >= part_lines or position - begun >= PART_BYTES:
                found.offsets.append(position)
                found.numbers.append(number)
                begun, weight = position, 0
            found.lines += 1
            request = _checked(found, seen, line, number, endpoint, most)
            heavy = 1 if request is None else max(1, weigh(request.body))
            weight, whole = weight + heavy, whole + heavy
            if whole > most >= found.lines:
                message = f"The requests up to here have more than {most:,} inputs, which is the limit."
                found.problems.append(BadLine(number, "too_many_inputs", message))
                break
            if len(found.problems) >= MAX_PROBLEMS:
                break
        position += len(line)
    if not found.lines:
        found.problems.append(BadLine(0, "empty_file", "The input file has no requests."))
    found.offsets.append(position)
    return found


def _checked(found: Survey, seen: set[bytes], line: bytes, number: int, endpoint: str, most: int) -> Line | None:
    """The request of a line; None, with a problem noted, for what is none."""
    if found.lines > most:
        if found.lines == most + 1:
            message = f"The input has more than {most:,} requests, which is the limit."
            found.problems.append(BadLine(number, "too_many_requests", message))
        return None
    try:
        request = parse(line, number, endpoint)
    except BadLine as problem:
        found.problems.append(problem)
        return None
    name = sha256(request.custom_id.encode("utf-8", "surrogatepass")).digest()[:12]
    if name in seen:
        message = f"The custom_id {request.custom_id[:100]!r} is used more than once."
        found.problems.append(BadLine(number, "duplicate_custom_id", message, "custom_id"))
    seen.add(name)
    return request


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request."""

    status: int
    """Of HTTP."""
    body: bytes
    """JSON."""

    @property
    def ok(self) -> bool:
        return self.status < 400


def answered(batch_id: str, line: Line, outcome: Outcome) -> bytes:
    """The line of the output, or of the error file."""
    name = request_name(batch_id, line.number)
    head = to_json({"id": f"batch_req_{name}", "custom_id": line.custom_id})[:-1]
    return head + b',"response":{"status_code":%d,"request_id":"req_%b","body":%b},"error":null}\n' % (
        outcome.status,
        name.encode(),
        outcome.body,
    )


def not_computed(batch_id: str, line: Line, code: str, message: str) -> bytes:
    """The line of the error file for a request that nobody began."""
    document = {
        "id": f"batch_req_{request_name(batch_id, line.number)}",
        "custom_id": line.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return to_json(document) + b"\n"


def request_name(batch_id: str, number: int) -> str:
    """The same for the same line, however often it is computed."""
    return sha256(f"{batch_id}:{number}".encode()).hexdigest()[:24]


def split(batch_id: str, lines: Sequence[Line], outcomes: Sequence[Outcome]) -> tuple[bytes, bytes, int, int]:
    """What goes into the output and into the error file, and how many each."""
    good = [answered(batch_id, line, one) for line, one in zip(lines, outcomes, strict=True) if one.ok]
    bad = [answered(batch_id, line, one) for line, one in zip(lines, outcomes, strict=True) if not one.ok]
    return b"".join(good), b"".join(bad), len(good), len(bad)
