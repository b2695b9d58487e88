"""A stream in a process of its own, to be killed. The names of sources and sinks are those of `test_kills.py`."""

import json
import os

from bulk_helpers import HashSpec
from distributed import Client

from idlegrid.grid.failpoints import VARIABLE
from idlegrid.pipelines.stream import Stream, redis_streams
from idlegrid.pipelines.stream.flow import StreamOptions
from idlegrid.pipelines.stream.folder import FolderSource, ParquetRows
from idlegrid.pipelines.stream.parquet_sink import ParquetSink
from idlegrid.pipelines.stream.redis_streams import RedisSink, RedisSource


class TwoWritesSink(ParquetSink):
    """CONTROL: the results, then what is done, as two writes; parts are named as they come."""

    def commit(self, commit, rows, done):
        folder = self._target.root
        number = len(list(folder.glob("part-*")))
        import pyarrow.parquet as pq

        pq.write_table(rows, folder / f"part-{number:012d}.parquet")
        if os.environ.get(VARIABLE) == "stream.part.published":
            os.kill(os.getpid(), 9)
        (folder / "_done.json").write_text(json.dumps(done.ranges()))

    def open(self, stream, facts):
        from idlegrid.pipelines.stream.done import Done
        from idlegrid.pipelines.stream.sink import State

        folder = self._target.root
        folder.mkdir(exist_ok=True)
        known = folder / "_done.json"
        return State(done=Done(json.loads(known.read_text())) if known.exists() else Done(), facts=facts)


def run(scheduler, source, sink, failpoint="", remembered=redis_streams.REMEMBERED):
    """`source` and `sink`: kind and address. `remembered`: seconds for which acknowledged entries are."""
    redis_streams.REMEMBERED = remembered
    if failpoint:
        os.environ[VARIABLE] = failpoint
    sources = {
        "folder": lambda url: FolderSource(url, ParquetRows("text"), endless=False),
        "redis": lambda url: RedisSource(url, column="text", endless=False),
    }
    sinks = {"parquet": ParquetSink, "redis": RedisSink, "two writes": TwoWritesSink}
    options = StreamOptions(column="text", batch_records=10, commit_records=50, commit_seconds=0.05)
    with Client(scheduler) as client:
        reading, writing = sources[source[0]](source[1]), sinks[sink[0]](sink[1])
        Stream(client, reading, HashSpec(seconds_per_row=0.0005), writing, options).wait()
