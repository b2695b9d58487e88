"""A row operator that needs no model, and ways to make and compare data. Workers import this file too."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from idlegrid.pipelines.bulk.operators import Results

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
