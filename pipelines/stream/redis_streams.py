"""Redis (or Valkey) streams as source and sink. Needs the extra `redis`."""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from datetime import time as dt_time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa

from .absences import Absences
from .done import Done, Piece
from .errors import Overtaken, StreamError
from .sink import Commit, State, check_same
from .source import Backlog, Batch

BLOCK_MS = 500
"""How long a read waits for an entry."""
RETRY = 0.5
"""Seconds between two tries while the server is away."""
REMEMBERED = 5.0
"""Seconds for which an acknowledged entry is remembered: longer than a server with `appendfsync everysec` forgets."""
SCHEMES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")


def parse_url(url: str) -> tuple[str, str, dict[str, str]]:
    """Server, stream and other options of ``redis://host:port/0?stream=NAME&group=…``. Raises StreamError."""
    options = dict(parse_qsl(urlsplit(url).query))
    stream = options.pop("stream", "")
    if not stream:
        raise StreamError(f"{_public(url)} names no stream: add ?stream=NAME")
    server = url.partition("?")[0]
    return "redis" + server.removeprefix("valkey") if server.startswith("valkey") else server, stream, options


def _public(url: str) -> str:
    """Without the password."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def connect(server: str) -> Any:
    """A client. Raises StreamError when `redis` is not installed or nobody answers."""
    try:
        import redis
    except ImportError:
        raise StreamError("Redis streams need the package redis: pip install 'idlegrid[redis]'") from None
    try:
        client = redis.Redis.from_url(server, socket_timeout=10, socket_connect_timeout=5, health_check_interval=15)
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise StreamError(f"no Redis answers at {_public(server)}: {error}") from error
    return client


class RedisSource:
    """Reads a stream by a consumer group. Entries are acknowledged when they are in the sink.

    Every entry is a partition of one record, named by its id. An entry that was given to this consumer and did not come
    into the sink is read again by the next process of the same consumer; nobody else takes it.
    """

    def __init__(
        self,
        url: str,
        *,
        column: str,
        group: str = "idlegrid",
        consumer: str = "stream",
        endless: bool = True,
        text: bool = True,
    ) -> None:
        """`column`: the field that is wanted of each entry, `text` or bytes. `endless=False`: ends when there is no new
        entry. Raises StreamError.
        """
        server, self._stream, options = parse_url(url)
        self._group, self._consumer = options.get("group", group), options.get("consumer", consumer)
        self._column, self._endless, self._text = column, endless, text
        self._unacknowledged: list[str] = []
        self._acknowledged: deque[tuple[float, list[str]]] = deque()
        self._absent = Absences(REMEMBERED)
        self._where = f"{_public(server)}?stream={self._stream}"
        self._client = connect(server)
        import redis

        self._gone_away = (redis.ConnectionError, redis.TimeoutError)
        try:
            self._client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise StreamError(f"can't read {self._where}: {error}") from error

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "redis", "url": self._where, "group": self._group, "consumer": self._consumer}

    def batches(self, done: Done, most: int, stopped: threading.Event) -> Iterator[Batch | None]:
        """See Source. First what this consumer was given before, then what is new. Waits while the server is away."""
        last = b"0"
        while not stopped.is_set():
            try:
                entries = self._read(last, most)
                if last != b">" and entries:
                    last = entries[-1][0]
                    entries = self._still_to_do(entries, done)
                elif last != b">":
                    last = b">"
                    continue
                elif not entries and not self._endless:
                    return
            except self._gone_away:
                stopped.wait(RETRY)
                yield None
                continue
            yield self._batch(entries) if entries else None

    def _read(self, last: bytes, most: int) -> list[tuple[bytes, Any]]:
        answer = self._client.xreadgroup(
            self._group, self._consumer, {self._stream: last}, count=most, block=BLOCK_MS if last == b">" else None
        )
        return list(answer[0][1]) if answer else []

    def _still_to_do(self, entries: Sequence[tuple[bytes, Any]], done: Done) -> list[tuple[bytes, Any]]:
        """Of those that were read before: acknowledges what is in the sink, or was deleted meanwhile."""
        settled = [key for key, fields in entries if fields is None or done.has(key.decode(), 0, 1)]
        if settled:
            self._client.xack(self._stream, self._group, *settled)
        return [(key, fields) for key, fields in entries if key not in settled]

    def _batch(self, entries: Sequence[tuple[bytes, Any]]) -> Batch:
        values, refused = [], {}
        for row, (_, fields) in enumerate(entries):
            value = fields.get(self._column.encode())
            try:
                values.append(value.decode() if value is not None and self._text else value)
            except UnicodeDecodeError as error:
                values.append(None)
                refused[row] = f"invalid UTF-8: {error.reason} at byte {error.start}"
            if value is None:
                refused[row] = f"the entry has no field {self._column!r}"
        ids = [key.decode() for key, _ in entries]
        kind = pa.string() if self._text else pa.binary()
        rows = pa.RecordBatch.from_pydict({"entry": ids, self._column: pa.array(values, kind)})
        return Batch(rows, tuple(Piece(one, 0, 1) for one in ids), _when(ids[0]), refused)

    def settled(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """Acknowledges, now or, if the server is away, with a later commit.

        Forgotten is what was acknowledged some seconds ago: a server that dies may forget what it was told last, and
        then gives these entries again.
        """
        self._unacknowledged += [piece.partition for piece in pieces]
        now, old = time.monotonic(), list[str]()
        try:
            self._client.xack(self._stream, self._group, *self._unacknowledged)
        except self._gone_away:
            return ()
        self._acknowledged.append((now, self._unacknowledged))
        self._unacknowledged = []
        while self._acknowledged and self._acknowledged[0][0] <= now - REMEMBERED:
            old += self._acknowledged.popleft()[1]
        return old

    def gone(self, done: Done) -> Collection[str]:
        """Those that this consumer is not given any more: they were acknowledged, by an earlier process perhaps."""
        held = done.partitions()
        if not held:
            return ()
        try:
            pending = self._client.xpending_range(self._stream, self._group, "-", "+", len(held) + 1000, self._consumer)
        except self._gone_away:
            return ()
        if len(pending) >= len(held) + 1000:
            return ()
        mine = {one["message_id"].decode() for one in pending}
        return self._absent.for_long(held - mine, time.monotonic())

    def backlog(self) -> Backlog:
        """By the server's own count."""
        try:
            groups = self._client.xinfo_groups(self._stream)
            mine = next(one for one in groups if one["name"] == self._group.encode())
            lag = mine.get("lag")
            if not lag:
                return Backlog(lag, None)
            after = self._client.xrange(self._stream, min=b"(" + mine["last-delivered-id"], count=1)
        except (*self._gone_away, StopIteration):
            return Backlog(None, None)
        return Backlog(int(lag), _when(after[0][0].decode()) if after else None)

    def close(self) -> None:
        self._client.close()


def _when(entry: str) -> float:
    """Entries are named by the server's milliseconds, unless whoever added them chose a name."""
    milliseconds = entry.partition("-")[0]
    return (
        int(milliseconds) / 1e3 if milliseconds.isdigit() and len(milliseconds) == len("1700000000000") else time.time()
    )


_COMMIT = """
local number = redis.call('HGET', KEYS[2], 'number') or '0'
if number == ARGV[1] and redis.call('HGET', KEYS[2], 'token') == ARGV[2] then return 'kept' end
if tonumber(number) ~= tonumber(ARGV[1]) - 1 then return number end
local position = 4
local maxlen = tonumber(ARGV[3])
local function take() position = position + 1; return ARGV[position - 1] end
for _ = 1, tonumber(take()) do
  local fields = {}
  for i = 1, tonumber(take()) do fields[i] = take() end
  if maxlen > 0 then redis.call('XADD', KEYS[1], 'MAXLEN', '~', maxlen, '*', unpack(fields))
  else redis.call('XADD', KEYS[1], '*', unpack(fields)) end
end
for _ = 1, tonumber(take()) do local partition = take(); redis.call('HSET', KEYS[3], partition, take()) end
for _ = 1, tonumber(take()) do redis.call('HDEL', KEYS[3], take()) end
redis.call('HINCRBY', KEYS[2], 'records', ARGV[#ARGV])
redis.call('HSET', KEYS[2], 'number', ARGV[1], 'token', ARGV[2])
return 'kept'
"""
"""Entries, what is done, and the commit's number: all of it or nothing, and only after the commit before."""


class RedisSink:
    """Adds an entry for each record: its columns as text, lists as JSON. As durable as the server's own persistence."""

    def __init__(self, url: str, *, checkpoint: str | None = None) -> None:
        """`checkpoint`: name of the hash that says what is done. None: the stream's name and ``:idlegrid``.

        ``&maxlen=N`` in the URL keeps about N entries. Raises StreamError.
        """
        server, self._stream, options = parse_url(url)
        self._maxlen = int(options.get("maxlen", 0))
        self._where = f"{_public(server)}?stream={self._stream}"
        self._key = checkpoint or options.get("checkpoint") or f"{self._stream}:idlegrid"
        self._client = connect(server)
        self._commit = self._client.register_script(_COMMIT)
        import redis

        self._away = (redis.ConnectionError, redis.TimeoutError)

    def open(self, stream: Mapping[str, Any], facts: Mapping[str, Any]) -> State:
        """See Sink."""
        document = json.dumps({"stream": stream, "facts": facts}, sort_keys=True)
        self._client.hsetnx(self._key, "stream", document)
        kept = {name.decode(): value for name, value in self._client.hgetall(self._key).items()}
        known = json.loads(kept["stream"])
        check_same(stream, known["stream"], self._where)
        done = Done({name.decode(): json.loads(ranges) for name, ranges in self._client.hgetall(self._done).items()})
        return State(int(kept.get("number", 0)), done, int(kept.get("records", 0)), known["facts"])

    @property
    def _done(self) -> str:
        return f"{self._key}:done"

    def commit(self, commit: Commit, rows: Any, done: Done) -> None:
        """See Sink."""
        arguments: list[Any] = [commit.number, commit.token, self._maxlen, rows.num_rows]
        for row in rows.to_pylist():
            fields = [word for name, value in row.items() if value is not None for word in (name, _text(value))]
            arguments += [len(fields), *fields]
        ranges = done.ranges()
        changed = {piece.partition for piece in commit.added} & set(ranges)
        arguments.append(len(changed))
        for partition in sorted(changed):
            arguments += [partition, json.dumps(ranges[partition])]
        arguments += [len(commit.forgotten), *commit.forgotten, rows.num_rows]
        try:
            answer = self._commit(keys=[self._stream, self._key, self._done], args=arguments)
        except self._away as error:
            raise ConnectionError(f"{self._where} is away: {error}") from error
        if answer != b"kept":
            raise Overtaken(
                f"another process writes into {self._where} (commit {answer.decode()} is there, {commit.number} was "
                "to follow): one stream has one process at a time"
            )

    def close(self) -> None:
        self._client.close()


def _text(value: Any) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    """What JSON does not know: instants as ISO 8601, bytes as Base64, everything else as its text."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | dt_time) else str(value)
