"""A row operator that needs no model, and ways to make and compare data. Workers import this file too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from distributed import Client, Nanny, SpecCluster

from idlegrid.grid.donors import Donor
from idlegrid.grid.failpoints import VARIABLE
from idlegrid.pipelines.bulk.operators import Results
from idlegrid.pipelines.bulk.target import LocalTarget
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin
from idlegrid.scheduler_plugins.scheduler import GridScheduler

WIDTH = 8
KILLER = "this row kills"
RAISER = "this row raises"


@dataclass(frozen=True, slots=True)
class HashSpec:
    """Vectors from a hash of the text: the same on every machine, in no time."""

    seconds_per_row: float = 0.0
    """How slow to pretend to be."""
    model: str = "hash"
    job_type: str = "embedding"
    revision: str = "r1"
    dtype: str = "auto"
    sick: str = ""
    """A folder with a file ``sick`` makes every text fail."""

    @property
    def options(self) -> dict[str, Any]:
        return {"dtype": self.dtype}

    def pinned(self, facts):
        return replace(self, dtype=facts["dtype"])

    def identity(self, facts):
        return {"revision": facts["revision"]}

    def load(self):
        return HashOperator(self)


class HashOperator:
    def __init__(self, spec):
        self._spec = spec
        self.fields = [pa.field("embedding", pa.list_(pa.field("element", pa.float32()), WIDTH))]
        self.facts = {"model": spec.model, "revision": spec.revision, "dtype": "float32"}

    def prepare(self, texts):
        return list(texts)

    def compute(self, prepared):
        if self._spec.sick and Path(self._spec.sick).exists():
            raise RuntimeError("the device fell off")
        time.sleep(self._spec.seconds_per_row * len(prepared))
        if KILLER in prepared:
            os.kill(os.getpid(), signal.SIGKILL)
        if RAISER in prepared:
            raise ValueError(f"cannot digest {RAISER!r}")
        vectors = np.stack([vector(text) for text in prepared])
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=self.fields[0].type)
        return Results([column], truncated=[i for i, text in enumerate(prepared) if len(text) > 1000])


def arm(point: str) -> None:
    """Have this process kill itself at a failpoint."""
    os.environ[VARIABLE] = point


def vector(text: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32).astype(np.float32)[:WIDTH]


def table(rows: int, *, first: int = 0) -> pa.Table:
    """`rows` rows with an id and a text, and one column of each kind that is easy to lose."""
    ids = range(first, first + rows)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "text": pa.array([f"row {i} {'word ' * (i % 13)}" for i in ids], pa.string()),
            "kind": pa.array([f"k{i % 3}" for i in ids], pa.string()).dictionary_encode(),
            "nested": pa.array(
                [{"a": [i, i + 1], "b": str(i)} for i in ids],
                pa.struct({"a": pa.list_(pa.int32()), "b": pa.string()}),
            ),
        }
    )


def write(path: Path, rows: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, **{"write_page_checksum": True, **options})
    return path


def read(target: Path | str) -> pa.Table:
    """The whole output as any reader sees it: in the order of the parts' names."""
    return ds.dataset(str(target), format="parquet").to_table()


def expected(source: pa.Table, column: str = "text") -> list[list[float]]:
    return [vector(text).tolist() for text in source[column].to_pylist()]


def assert_complete(target: Path, source: pa.Table) -> None:
    """The output is the source, row by row, with the right vector in each row, and says that it is complete."""
    found = read(target)
    assert found.select(source.column_names).to_pylist() == source.to_pylist()
    assert found["embedding"].to_pylist() == expected(source)
    assert found["error"].null_count == len(found)
    names = {path.name for path in Path(target).iterdir()}
    assert {"_SUCCESS", "_manifest.json", "_plan.json"} <= names
    assert not [name for name in names if not name.startswith(("part-", "_"))]


@dataclass(frozen=True)
class TracedTarget(LocalTarget):
    """A local target that notes each publication in a file beside it: process, name, whether it was the first."""

    gated: str = ""
    """Part whose first publication waits for a file ``gate`` beside the target."""

    @property
    def trace(self) -> Path:
        return self.root.with_suffix(".trace")

    def mark(self, name):
        super().mark(name)
        with self.trace.open("a") as file:
            file.write(f"{os.getpid()} {name} begun\n")

    def publish(self, scratch, name):
        if name == self.gated and not self.trace.with_suffix(".waiting").exists():
            self.trace.with_suffix(".waiting").write_text(str(os.getpid()))
            while not self.trace.with_suffix(".gate").exists():
                time.sleep(0.01)
        first: bool | str = "failed"
        try:
            first = super().publish(scratch, name)
        finally:
            with self.trace.open("a") as file:
                file.write(f"{os.getpid()} {name} {first}\n")
        return first

    def published(self) -> list[tuple[int, str, str]]:
        """Process, part, and True, False or failed, for each attempt that came to its end."""
        return [line for line in self._lines() if line[1].startswith("part-") and line[2] != "begun"]

    def begun(self) -> int:
        """Attempts at a part, however they ended."""
        return sum(what == "begun" for _, _, what in self._lines())

    def _lines(self) -> list[tuple[int, str, str]]:
        if not self.trace.exists():
            return []
        lines = [line.split() for line in self.trace.read_text().splitlines()]
        return [(int(pid), name, what) for pid, name, what in lines]


@dataclass(frozen=True)
class RandomNamesTarget(TracedTarget):
    """CONTROL, what Dask's own `to_parquet` did (dask#6445): every attempt publishes, under a name of its own."""

    def _publish(self, scratch, final):
        if final.name.startswith("part-"):
            final = final.with_name(f"{final.stem}-{scratch.name[-8:]}.parquet")
        scratch.rename(final)
        return True


@dataclass(frozen=True)
class InPlaceTarget(TracedTarget):
    """CONTROL: parts are written under their final name from the first byte on."""

    @contextlib.contextmanager
    def scratch(self, name):
        if name.startswith("part-"):
            yield self.root / name[: len("part-00000.parquet")]
        else:
            with super().scratch(name) as path:
                yield path

    def publish(self, scratch, name):
        return True if name.startswith("part-") else super().publish(scratch, name)


@contextlib.contextmanager
def cluster(scheduler=GridScheduler, workers=2, **config):
    """Worker processes with nannies, all on loopback."""
    settings = {"distributed.worker.memory.terminate": False, **config}
    common = {"nthreads": 1, "host": "127.0.0.1", "dashboard": False, "memory_limit": 0}
    specs = {
        index: {
            "cls": Nanny,
            "options": {**common, "name": f"w{index}", "plugins": (DonorPlugin(_donor(f"w{index}")),)},
        }
        for index in range(workers)
    }
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set({name.replace("__", "."): value for name, value in settings.items()}),
        SpecCluster(workers=specs, scheduler={"cls": scheduler, "options": options}, silence_logs=50) as running,
        Client(running) as client,
    ):
        yield client


def _donor(name):
    return Donor(id=name, name=name, supported_types=frozenset({"embedding", "llm", "whisper"}))
