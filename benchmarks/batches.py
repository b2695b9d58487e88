#!/usr/bin/env python3
"""Batches by `/v1/batches`: against the bulk command, and beside online requests.

- **vs_bulk**: a batch of `--lines` embeddings (the API's JSONL in and out, parts, leases) against `embed_parquet` of
  the same texts (Parquet in and out) on the same grid of two workers, in turns; from the request to the whole output.
- **ttft_p99_ratio**: online streams one after the other, alone and while a batch of chat requests fills the only
  engine: 99th percentile of the time to the first text with the batch over that without. Control: the same requests
  online instead of as a batch.

The model is the 32 M Llama shape of `stage.py` with random weights, and idlegrid-tiny, whose first text takes so little
that the way to it is most of its time; the headline is the former. Each grid is `idlegrid up` in processes of its own.
The last line is one JSON object. It takes about four minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import httpx
from online import random_llama
from whole_grid import whole_grid

from idlegrid.pipelines.samples import sentences, write_parquet

MODEL = "all-MiniLM-L6-v2"
CHAT = "idlegrid-tiny"
START = 180.0
WARM_UP = 256


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def grid(folder: Path, *options: str) -> Iterator[tuple[httpx.Client, str]]:
    """`idlegrid up`: a client of its API, and its scheduler's address."""
    with whole_grid(folder, *options) as (url, scheduler), httpx.Client(base_url=url, timeout=START) as client:
        yield client, scheduler


def until_it_answers(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    deadline = time.monotonic() + START
    while (answer := client.post(path, json=body)).status_code != 200:
        assert answer.status_code == 503, answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)


def create(client: httpx.Client, endpoint: str, bodies: Sequence[dict[str, Any]]) -> str:
    lines = (
        json.dumps({"custom_id": f"r{number}", "method": "POST", "url": endpoint, "body": body})
        for number, body in enumerate(bodies)
    )
    sent = client.post("/v1/files", files={"file": ("in.jsonl", "\n".join(lines))}, data={"purpose": "batch"})
    asked = {"input_file_id": sent.json()["id"], "endpoint": endpoint, "completion_window": "24h"}
    return str(client.post("/v1/batches", json=asked).json()["id"])


def until(client: httpx.Client, batch: str, *statuses: str) -> dict[str, Any]:
    while (now := client.get(f"/v1/batches/{batch}").json())["status"] not in statuses:
        assert now["status"] not in ("failed", "expired"), now
        time.sleep(0.05)
    return dict(now)


# -- a batch against the bulk command ---------------------------------------------------------------------------------


def against_bulk(folder: Path, lines: int, turns: int) -> dict[str, Any]:
    from distributed import Client

    from idlegrid.pipelines.bulk import embed_parquet

    rows = [(name, text[:250]) for name, text in sentences(lines)]  # the API refuses what the model can't read whole
    texts = [text for _, text in rows]
    source, warm = folder / "texts.parquet", folder / "warm.parquet"
    write_parquet(source, rows)
    write_parquet(warm, rows[:WARM_UP])
    took: dict[str, list[float]] = {"batch": [], "bulk": []}
    with grid(folder, "--workers", "2") as (client, scheduler), Client(scheduler) as dask:
        until_it_answers(client, "/v1/embeddings", {"model": MODEL, "input": "a"})
        embed_parquet(dask, warm, folder / "warm", column="text")
        until(client, create(client, "/v1/embeddings", _embeddings(texts[:WARM_UP])), "completed")
        for turn in range(turns):
            begun = time.monotonic()
            done = until(client, create(client, "/v1/embeddings", _embeddings(texts)), "completed")
            took["batch"].append(time.monotonic() - begun)
            assert done["request_counts"] == {"total": lines, "completed": lines, "failed": 0}, done
            begun = time.monotonic()
            report = embed_parquet(dask, source, folder / f"bulk-{turn}", column="text")
            took["bulk"].append(time.monotonic() - begun)
            assert (report.rows, report.errors) == (lines, 0)
            say(f"turn {turn}: batch {took['batch'][-1]:.1f} s, bulk {took['bulk'][-1]:.1f} s")
    ratios = [bulk / batch for batch, bulk in zip(took["batch"], took["bulk"], strict=True)]
    return {
        "lines": lines,
        "vs_bulk": round(statistics.median(ratios), 2),
        "vs_bulk_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "lines_per_second": round(lines / statistics.median(took["batch"])),
        "rows_per_second_bulk": round(lines / statistics.median(took["bulk"])),
    }


def _embeddings(texts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"model": MODEL, "input": text} for text in texts]


# -- online beside a batch --------------------------------------------------------------------------------------------


def beside_online(folder: Path, model: str, requests: int, turns: int) -> dict[str, Any]:
    """Figures of one model."""
    alone: list[float] = []
    beside: list[float] = []
    crowded: list[float] = []
    running = []
    filler = [_chat(model, f"{text} What is it about?", 96) for _, text in sentences(20_000)]
    with grid(folder, "--workers", "1", "--llm", model) as (client, _):
        until_it_answers(client, "/v1/chat/completions", _chat(model, "Hello", 1))
        first_texts(client, model, 5)
        for turn in range(turns):
            alone += first_texts(client, model, requests)
            batch = create(client, "/v1/chat/completions", filler)
            until(client, batch, "in_progress")
            time.sleep(2.0)
            before = client.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"]
            begun = time.monotonic()
            beside += first_texts(client, model, requests)
            spent = time.monotonic() - begun
            after = client.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"]
            running.append((after - before) / spent)
            client.post(f"/v1/batches/{batch}/cancel")
            until(client, batch, "cancelled", "completed")
            crowded += with_a_crowd(client, model, requests // 4)
            say(f"turn {turn}: p99 alone {_ms(alone)}, beside a batch {_ms(beside)}, in a crowd {_ms(crowded)}")
    return {
        "ttft_p99_ratio": round(_p(beside, 0.99) / _p(alone, 0.99), 2),
        "ttft_p50_ratio": round(_p(beside, 0.5) / _p(alone, 0.5), 2),
        "ttft_p99_ratio_of_the_control": round(_p(crowded, 0.99) / _p(alone, 0.99), 2),
        "ttft_ms_alone": {"p50": round(_p(alone, 0.5) * 1e3, 1), "p99": round(_p(alone, 0.99) * 1e3, 1)},
        "ttft_ms_beside": {"p50": round(_p(beside, 0.5) * 1e3, 1), "p99": round(_p(beside, 0.99) * 1e3, 1)},
        "batch_lines_per_second_meanwhile": round(statistics.median(running), 1),
    }


def _chat(model: str, text: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}


def first_texts(client: httpx.Client, model: str, requests: int) -> list[float]:
    """Seconds to the first text of streams that come one after the other."""
    return [first_text(client, model, number) for number in range(requests)]


def first_text(client: httpx.Client, model: str, number: int) -> float:
    body = _chat(model, f"A question with the number {number}: how do you do?", 16) | {"stream": True}
    begun = time.monotonic()
    first = None
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if first is None and '"content":"' in line and '"content":""' not in line:
                first = time.monotonic() - begun
    time.sleep(0.02)
    assert first is not None
    return first


def with_a_crowd(client: httpx.Client, model: str, requests: int) -> list[float]:
    """The same while 64 others ask online all the time."""
    over = threading.Event()

    def crowd(number: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=START) as own:
            while not over.is_set():
                own.post("/v1/chat/completions", json=_chat(model, f"Crowd {number}: what is it about?", 96))

    threads = [threading.Thread(target=crowd, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    time.sleep(2.0)
    try:
        return first_texts(client, model, requests)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _p(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _ms(values: Sequence[float]) -> str:
    return f"{_p(values, 0.99) * 1e3:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000, help="requests of the embedding batch")
    parser.add_argument("--requests", type=int, default=100, help="online requests of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--parts", default="bulk,online")
    parser.add_argument("--models", default="llama_32m,tiny", help="of the part online")
    given = parser.parse_args()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="idlegrid-bench-") as folder:
        if "bulk" in given.parts:
            (Path(folder) / "bulk").mkdir()
            told |= against_bulk(Path(folder) / "bulk", given.lines, given.turns)
        if "online" in given.parts:
            for name in given.models.split(","):
                (Path(folder) / name).mkdir()
                model = random_llama(Path(folder) / "llama") if name == "llama_32m" else CHAT
                told[name] = beside_online(Path(folder) / name, model, given.requests, given.turns)
            told["ttft_p99_ratio"] = told[given.models.split(",")[0]]["ttft_p99_ratio"]
    cores, load = len(os.sched_getaffinity(0)), round(os.getloadavg()[0], 1)
    versions = {name: version(name) for name in ("distributed", "torch", "fastapi")}
    print(json.dumps({"benchmark": "batches", **told, "cores": cores, "load": load, "versions": versions}))


if __name__ == "__main__":
    main()
