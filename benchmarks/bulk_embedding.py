#!/usr/bin/env python3
"""Bulk embedding, Parquet to Parquet, against its peers in one run on the same two cores.

All processes are pinned to `--cores` cores. Start-up (processes, imports, loading the model) is left out for everybody:
each candidate first does a small warm-up job. Candidates:

- **ours**: `Grid(workers=2).embed_parquet`, with torch and, if installed, with OpenVINO.
- **bare loop**: two processes, one thread each, the same model in bf16, sorted, token budget; no Dask, no Parquet.
- **bare OpenVINO loop**: the same with OpenVINO.
- **plain script**: read_table, `SentenceTransformer.encode` with its defaults, write_table.
- **plain Dask**: `dask.dataframe.read_parquet → map_partitions(encode) → to_parquet` on two workers.

Ours and the bare loops take turns `--repeats` times and medians are compared; the two slow peers run once.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from idlegrid.grid import catalogue
from idlegrid.pipelines.samples import sentences, write_parquet

MODEL = "all-MiniLM-L6-v2"
WORKERS = 2
WARM_UP = 64


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    arguments = parse()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: arguments.cores]))
    with tempfile.TemporaryDirectory(prefix="idlegrid-bench-") as folder:
        source = Path(folder, "texts.parquet")
        rows = sentences(arguments.rows)
        write_parquet(source, rows)
        result = measure(source, Path(folder), arguments)
    result["conditions"] = conditions(arguments, [text for _, text in rows])
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2, help="cores that all processes share")
    parser.add_argument("--skip-slow-peers", action="store_true", help="only ours and the bare loops")
    return parser.parse_args()


def measure(source: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    texts: list[str] = pq.read_table(source, columns=["text"])["text"].to_pylist()
    backends = ["torch", *(["openvino"] if installed("openvino") else [])]
    rates: dict[str, list[float]] = {f"{kind}_{backend}": [] for backend in backends for kind in ("ours", "bare")}
    for turn in range(arguments.repeats):
        for backend in backends:
            rates[f"bare_{backend}"].append(bare_loop(texts, backend))
            rates[f"ours_{backend}"].append(ours(source, folder / f"ours-{backend}", backend))
            say(f"turn {turn + 1}, {backend}: " + ", ".join(f"{k} {v[-1]:.0f}/s" for k, v in rates.items() if v))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(medians[f"ours_{backend}"] for backend in backends)
    result: dict[str, Any] = {
        "rows_per_s": {name: round(value, 1) for name, value in medians.items()},
        "all_runs": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "vs_bare_loop": round(medians["ours_torch"] / medians["bare_torch"], 3),
    }
    if "openvino" in backends:
        result["vs_bare_loop_openvino"] = round(medians["ours_openvino"] / medians["bare_openvino"], 3)
        result["vs_openvino"] = round(best / medians["bare_openvino"], 3)
        result["openvino_vs_torch"] = round(medians["ours_openvino"] / medians["ours_torch"], 3)
    if not arguments.skip_slow_peers:
        script = alone(plain_script, str(source), str(folder / "script.parquet"))
        say(f"plain script: {script:.0f}/s")
        dask_rate = alone(plain_dask, str(source), str(folder / "plain-dask"))
        say(f"plain Dask: {dask_rate:.0f}/s")
        result["rows_per_s"] |= {"plain_script": round(script, 1), "plain_dask": round(dask_rate, 1)}
        result["vs_sentence_transformers"] = round(best / script, 2)
        result["vs_plain_dask"] = round(best / dask_rate, 2)
        result["vs_sentence_transformers_torch_only"] = round(medians["ours_torch"] / script, 2)
        result["vs_plain_dask_torch_only"] = round(medians["ours_torch"] / dask_rate, 2)
        exact = vectors(pq.read_table(folder / "script.parquet", columns=["embedding"]))
        result["min_cosine"] = round(
            min(min_cosine(exact, vectors(read(folder / f"ours-{backend}"))) for backend in backends), 5
        )
    return result


# -- ours ------------------------------------------------------------------------------------------


def ours(source: Path, target: Path, backend: str) -> float:
    """Rows per second of the whole job on a local grid, in a process of its own."""
    shutil.rmtree(target, ignore_errors=True)
    return alone(run_ours, str(source), str(target), backend)


def run_ours(source: str, target: str, backend: str) -> float:
    from idlegrid.actors.tasks import model_facts
    from idlegrid.api import Grid

    warm = Path(target).with_suffix(".warm.parquet")
    write_parquet(warm, [("", f"warm-up text number {index}") for index in range(WARM_UP)])
    with Grid(workers=WORKERS, dashboard_address=None) as grid:
        options: dict[str, Any] = {"column": "text", "model": MODEL, "backend": backend}
        grid.client.run(model_facts, catalogue.canonical(MODEL, "embedding"), backend=backend)  # both workers load it
        grid.embed_parquet(str(warm), f"{target}.warm", unit_rows=WARM_UP // WORKERS, **options)
        report = grid.embed_parquet(source, target, **options)
    return report.rows / report.seconds


# -- peers -----------------------------------------------------------------------------------------


def bare_loop(texts: Sequence[str], backend: str) -> float:
    """Rows per second of two processes that only tokenise and compute, each with every second text."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(WORKERS)
    with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=meet_at, initargs=(ready,)) as pool:
        shares = [list(texts[index::WORKERS]) for index in range(WORKERS)]
        spans = list(pool.map(run_bare_loop, shares, [backend] * WORKERS))
    return len(texts) / (max(end for _, end in spans) - min(start for start, _ in spans))


_ready: Any = None


def meet_at(barrier: Any) -> None:
    """Both loops start together, when both have loaded their model."""
    global _ready
    _ready = barrier


def run_bare_loop(texts: list[str], backend: str) -> tuple[float, float]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from idlegrid.actors.batches import by_token_budget
    from idlegrid.actors.models import resolve

    torch.set_num_threads(1)
    folder = resolve(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    forward = bare_openvino(folder) if backend == "openvino" else bare_torch(folder, AutoModel, torch)
    forward(np.ones((2, 8), np.int64), np.ones((2, 8), np.int64))
    _ready.wait(timeout=300)
    started = time.time()
    ids = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    out = np.empty((len(texts), 384), np.float32)
    for batch in by_token_budget([len(one) for one in ids], 512):
        width = len(ids[batch[0]])
        tokens = np.zeros((len(batch), width), np.int64)
        mask = np.zeros((len(batch), width), np.int64)
        for row, index in enumerate(batch):
            tokens[row, : len(ids[index])] = ids[index]
            mask[row, : len(ids[index])] = 1
        hidden = forward(tokens, mask)
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        out[batch] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return started, time.time()


def bare_torch(folder: Path, auto_model: Any, torch: Any) -> Callable[[Any, Any], Any]:
    model = auto_model.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.bfloat16).eval()

    def forward(tokens: Any, mask: Any) -> Any:
        with torch.inference_mode():
            out = model(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask))
            return out.last_hidden_state.float().numpy()

    return forward


def bare_openvino(folder: Path) -> Callable[[Any, Any], Any]:
    import torch
    from sentence_transformers import SentenceTransformer

    from idlegrid.actors.encoders import openvino_encoder

    encoder = openvino_encoder(SentenceTransformer(str(folder), device="cpu")[0], torch.bfloat16, threads=1)
    return lambda tokens, mask: encoder.forward(torch.from_numpy(tokens), torch.from_numpy(mask)).numpy()


def plain_script(source: str, target: str) -> float:
    """What most people write."""
    os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    import torch
    from sentence_transformers import SentenceTransformer

    from idlegrid.actors.models import resolve

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = SentenceTransformer(str(resolve(MODEL)), device="cpu")
    model.encode(["warm up"] * WARM_UP)
    started = time.perf_counter()
    table = pq.read_table(source)
    embedded = model.encode(table["text"].to_pylist(), normalize_embeddings=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(embedded.reshape(-1)), embedded.shape[1])
    pq.write_table(table.append_column("embedding", column), target)
    return len(table) / (time.perf_counter() - started)


_dask_model: Any = None


def encode_partition(frame: Any, target: str) -> Any:
    """One partition: encode its texts, write it as a Parquet file of its own."""
    import pandas as pd

    global _dask_model
    if _dask_model is None:
        from sentence_transformers import SentenceTransformer

        from idlegrid.actors.models import resolve

        _dask_model = SentenceTransformer(str(resolve(MODEL)), device="cpu")
    vectors = _dask_model.encode(frame["text"].tolist(), normalize_embeddings=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.Table.from_pandas(frame, preserve_index=False).append_column("embedding", column)
    pq.write_table(table, Path(target, f"{uuid.uuid4().hex}.parquet"))
    return pd.Series([len(frame)])


def plain_dask(source: str, target: str) -> float:
    """`map_partitions` on two single-threaded workers, with the model kept in a module global."""
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    Path(target).mkdir()
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(warm_up, target)
        started = time.perf_counter()
        frame = dd.read_parquet(source).repartition(npartitions=2 * WORKERS)
        rows = int(frame.map_partitions(encode_partition, target, meta=(None, "i8")).compute().sum())
        return rows / (time.perf_counter() - started)


def warm_up(target: str) -> None:
    """Load the model of this worker; what it writes goes elsewhere."""
    with tempfile.TemporaryDirectory(dir=target) as folder:
        encode_partition(frame_of(WARM_UP), folder)


def frame_of(rows: int) -> Any:
    import pandas as pd

    return pd.DataFrame({"id": range(rows), "name": ["-"] * rows, "text": ["warm up"] * rows})


# -- measuring -------------------------------------------------------------------------------------


def alone(function: Callable[..., float], *arguments: str) -> float:
    """Run it in a fresh process, so that nobody profits from what another one loaded."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout=900)


def installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def read(folder: Path) -> pa.Table:
    return ds.dataset(folder, format="parquet").to_table(columns=["embedding"])


def vectors(table: pa.Table) -> Any:
    return table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)


def min_cosine(exact: Any, other: Any) -> float:
    assert exact.shape == other.shape, (exact.shape, other.shape)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(other, axis=1)
    return float(((exact * other).sum(axis=1) / norms).min())


def conditions(arguments: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    return {
        "rows": len(texts),
        "mean_chars": round(statistics.mean(map(len, texts)), 1),
        "workers": WORKERS,
        "cores": arguments.cores,
        "repeats": arguments.repeats,
        "model": MODEL,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "distributed")},
    }


if __name__ == "__main__":
    main()
