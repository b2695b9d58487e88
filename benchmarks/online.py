#!/usr/bin/env python3
"""What serving over HTTP costs: streams through the grid's own endpoint against the same engine in process.

`idlegrid up --workers 1 --llm MODEL` serves 64 streams of `POST /v1/chat/completions` at once to a client in a process
of its own, which only notes what came and when. A third process runs the same engine with the same 64 requests and no
grid around it. Both take turns; the figures are those of all turns, ratios are medians of the turns.

- **facade_efficiency**: tokens a second over HTTP ÷ in process, from the first request sent to the last answer whole.
- **ttft_ms**, **inter_token_ms**: median and 99th percentile of the time to the first text, and between two texts.
- **disconnected**: `--leavers` of the streams are cut off while all run. Of each: steps that the engine began after the
  client had closed its socket and before the blocks were free.

The engine has one thread. Each engine's process is pinned to the first core of this process's affinity, the service to
the second, the client to the third (or to the second, where there are two). The model is the 32 M Llama shape of
`stage.py` with random weights, and idlegrid-tiny, whose steps are so short that the way of a token is most of its cost:
the headline is the former. The last line is one JSON object. It takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import httpx
import psutil
from distributed import Client
from online_streams import Taken, Work, client, in_process
from whole_grid import whole_grid

from idlegrid.pipelines.samples import sentences

TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
START = 120.0
"""Seconds that the grid has to serve the model."""


# -- the grid ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """`idlegrid up`, serving."""

    url: str
    scheduler: str
    service: int
    """Process id of the HTTP service."""
    worker: int


@contextmanager
def grid(model: str) -> Iterator[Grid]:
    with (
        tempfile.TemporaryDirectory(prefix="idlegrid-bench-") as folder,  # of its own: no jobs of another grid
        whole_grid(Path(folder), "--workers", "1", "--llm", model) as (url, scheduler),
    ):
        _until_it_answers(url, model)
        with Client(scheduler) as dask:
            [worker] = dask.run(os.getpid).values()
        yield Grid(url, scheduler, listener(int(url.rpartition(":")[2])), worker)


def listener(port: int) -> int:
    """The process that serves a port of this machine."""
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid is not None:
            return one.pid
    raise RuntimeError(f"nobody listens on port {port}")


def _until_it_answers(url: str, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    deadline = time.monotonic() + START
    while (answer := httpx.post(f"{url}/v1/chat/completions", json=body, timeout=START)).status_code != 200:
        assert answer.status_code == 503, answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)


def watch_steps(dask_worker: Any) -> None:
    """On the worker: from now on its engine notes each step's beginning, and what was held after it."""
    [actor] = dask_worker.state.actors.values()
    core = actor._thread._host.engine._loaded.core
    dask_worker.watched = watched = []
    step, abort = core.step, core.abort

    def stepping(now: float) -> Any:
        watched.append((time.monotonic(), "step", ""))
        return step(now)

    def aborting(request_id: str, *more: Any) -> Any:
        told = abort(request_id, *more)
        if told:
            watched.append((time.monotonic(), "free", request_id))
        return told

    core.step, core.abort = stepping, aborting


def what_was_watched(dask_worker: Any) -> tuple[list[tuple[float, str, str]], int]:
    """On the worker: the notes, and how many blocks are held now that nothing runs."""
    [actor] = dask_worker.state.actors.values()
    stats = actor._thread._host.engine._loaded.core.sequencer.stats()
    return dask_worker.watched, stats.running + stats.waiting


# -- figures ----------------------------------------------------------------------------------------------------------


def pin(process: int, core: int) -> None:
    """All threads that a process has; those it starts later inherit."""
    for thread in psutil.Process(process).threads():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, {core})


def cpu_seconds(process: int) -> float:
    """CPU time that a process has used."""
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def cpu_per_token(turns: Sequence[Sequence[float]], tokens: int) -> dict[str, int]:
    """CPU time for a token, prompts included: a figure that other work on the machine disturbs less than a rate."""
    names = ("worker", "service", "in_process")
    return {name: round(statistics.median(turn[i] for turn in turns) / tokens * 1e6) for i, name in enumerate(names)}


def rate(streams: Sequence[Taken]) -> float:
    """Tokens a second."""
    return sum(one.tokens for one in streams) / (max(one.ended for one in streams) - min(one.began for one in streams))


def spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {
        name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return {name: round(value * 1000, 1) for name, value in at.items()}


def figures(turns: Sequence[Sequence[Taken]]) -> dict[str, Any]:
    streams = [one for turn in turns for one in turn]
    gaps = [late - early for one in streams for early, late in zip(one.times, one.times[1:], strict=False)]
    return {
        "tokens_per_second": round(statistics.median(map(rate, turns)), 1),
        "ttft_ms": spread([one.times[0] - one.began for one in streams]),
        "inter_token_ms": spread(gaps),
        "texts_per_token": round(sum(len(one.times) for one in streams) / sum(one.tokens for one in streams), 3),
    }


def steps_to_free(left: Sequence[float], watched: Sequence[tuple[float, str, str]]) -> list[int]:
    """Steps that began between each closing of a socket and the next freeing. Both in order, so they pair."""
    freed = [at for at, what, _ in watched if what == "free"]
    begun = [at for at, what, _ in watched if what == "step"]
    assert len(freed) == len(left), f"{len(left)} clients left, {len(freed)} requests were freed"
    return [sum(early < at < late for at in begun) for early, late in zip(sorted(left), sorted(freed), strict=True)]


# -- one model --------------------------------------------------------------------------------------------------------


@contextmanager
def other_process(target: Any, *arguments: Any) -> Iterator[tuple[Any, int]]:
    """A process that serves a pipe: (the pipe, its process id)."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield here, process.pid
    finally:
        with suppress(OSError):
            here.send(None)
        process.join(30)
        process.kill()


def measure(model: str, work: Work, cores: Sequence[int], arguments: argparse.Namespace) -> dict[str, Any]:
    with (
        grid(model) as there,
        other_process(client, there.url, model) as (asking, client_id),
        other_process(in_process, model) as (bare, bare_id),
    ):
        assert bare.recv() == "ready"
        if len(cores) > 1:
            pins = {there.worker: 0, bare_id: 0, there.service: 1, client_id: min(2, len(cores) - 1)}
            for process, index in pins.items():
                pin(process, cores[index])
        http, alone, spent = [], [], []
        for turn in range(arguments.turns + 1):
            before = [cpu_seconds(process) for process in (there.worker, there.service, bare_id)]
            asking.send((work, 0))
            over_http = asking.recv()
            bare.send(work)
            here = bare.recv()
            after = [cpu_seconds(process) for process in (there.worker, there.service, bare_id)]
            used = [late - early for early, late in zip(before, after, strict=True)]
            say(
                f"{'turn' if turn else 'warm-up'}: {rate(over_http):.0f} over HTTP, {rate(here):.0f} in process; "
                f"CPU seconds of worker, service and bare engine: {', '.join(f'{one:.2f}' for one in used)}"
            )
            if turn:
                http.append(over_http)
                alone.append(here)
                spent.append(used)
        left = disconnect(there, asking, work, arguments.leavers)
    equal = [
        one.text == other.text
        for turn, bare_turn in zip(http, alone, strict=True)
        for one, other in zip(turn, bare_turn, strict=True)
    ]
    efficiencies = [rate(one) / rate(other) for one, other in zip(http, alone, strict=True)]
    return {
        "facade_efficiency": round(statistics.median(efficiencies), 3),
        "efficiencies": [round(one, 3) for one in efficiencies],
        "streams": len(work.questions),
        "prompt_tokens": round(statistics.mean(one.prompt_tokens for one in http[0])),
        "answer_tokens": work.answer,
        "equal_texts": round(sum(equal) / len(equal), 3),
        "cpu_us_per_token": cpu_per_token(spent, len(work.questions) * work.answer),
        "http": figures(http),
        "in_process": figures(alone),
        "disconnected": left,
    }


def disconnect(there: Grid, asking: Any, work: Work, leavers: int) -> dict[str, Any]:
    with Client(there.scheduler) as dask:
        dask.run(watch_steps)
        asking.send((work, leavers))
        streams = asking.recv()
        [(watched, held)] = dask.run(what_was_watched).values()
    steps = steps_to_free([one.ended for one in streams[:leavers]], watched)
    assert all(one.tokens == work.answer for one in streams[leavers:])
    return {
        "streams": leavers,
        "steps_until_free": {"median": statistics.median(steps), "most": max(steps)},
        "held_in_the_end": held,
    }


def questions(count: int) -> list[str]:
    """Real sentences of 20 to 60 words that begin differently."""
    found = {text[:20]: text for _, text in sentences(count * 60) if 100 <= len(text) <= 240}
    return list(found.values())[:count]


def random_llama(folder: Path) -> str:
    """The 32 M shape with random weights, and a tokenizer of as many real pieces: a chat model by its form."""
    import torch
    from stage import SHAPES, make
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    make("llama-32m", torch.bfloat16, folder)
    pieces = ByteLevelBPETokenizer()
    texts = [text for _, text in sentences()]
    pieces.train_from_iterator(texts, SHAPES["llama-32m"]["vocab_size"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


def conditions(cores: Sequence[int]) -> dict[str, Any]:
    import platform

    installed = {}
    for name in ("torch", "distributed", "fastapi", "uvicorn", "uvloop", "httptools"):
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return {
        "machine": platform.machine(),
        "cores": len(cores),
        "pinned": len(cores) > 1,
        "python": platform.python_version(),
        "versions": installed,
        "load": round(os.getloadavg()[0], 1),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    arguments = parse()
    cores = sorted(os.sched_getaffinity(0))
    result: dict[str, Any] = {"conditions": conditions(cores)}
    work = Work(questions(arguments.streams), arguments.answer)
    for name in arguments.models:
        say(name)
        with tempfile.TemporaryDirectory(prefix="idlegrid-bench-") as folder:
            model = random_llama(Path(folder)) if name == "llama-32m" else name
            result[name] = measure(model, work, cores, arguments)
        result.setdefault("facade_efficiency", result[name]["facade_efficiency"])
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["llama-32m", "idlegrid-tiny"], help="the first is the headline")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--answer", type=int, default=96, help="tokens of each answer")
    parser.add_argument("--leavers", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
