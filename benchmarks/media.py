#!/usr/bin/env python3
"""Recordings and pictures in bulk, and what isolation costs. All processes are pinned to the same `--cores` cores.

- **vs_hf_pipeline**: `transcribe_parquet` on two workers against a script of one process with a
  `pipeline("automatic-speech-recognition")`, each process with one thread: Parquet with FLAC files in, Parquet with
  texts out, lengths log-normal from 2 to 120 s. The script is the model card's: one file after the other,
  ``chunk_length_s=30, batch_size=8``. Both sides take the likeliest token (the pipeline's own default is 5 beams, three
  times the work) and say the same number of tokens of each window: the model has whisper-tiny's shape and random
  weights. Two processes against one have twice the threads, so also: `vs_two_scripts`, half the script's time, as if
  two of them shared the files evenly; and with `--two-threads`, the script with as many threads as ours has together.
  `vs_batched`: all files in one call, one thread, so that batches are full. `work`: seconds of all processes, by
  candidate; it depends less on what else the machine does.
- **isolation**: decoding a recording in a decoder's process and in this one; a task in a process of its own and here.
- **batch_gain**: pictures drawn four at a time against one by one, one thread, a small Stable Diffusion.

Start-up and loading are left out for everybody; planning and timing the model are part of ours. The candidates take
turns; medians. The last line is one JSON object. It takes about three minutes.
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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import media_models
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

WORKERS = 2
TOKENS = 100
"""Of a window of 30 s: a minute of English is about 200."""
TOGETHER, PICTURES, STEPS = 4, 8, 8
Spent = tuple[float, float]
"""Seconds of time, and of all processes' work."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--two-threads", action="store_true", help="the script once more, with two threads")
    parser.add_argument("--cores", type=int, default=2, help="that all processes share")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-arguments.cores :]))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="idlegrid-bench-") as name:
        folder = Path(name)
        result = {
            **alone(images, folder),
            "isolation": alone(isolation, folder),
            **speech(folder, arguments),
        }
    result["conditions"] = conditions(arguments, load)
    print(json.dumps(result))


# -- speech ----------------------------------------------------------------------------------------


def speech(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    alone(media_models.whisper, folder / "whisper", TOKENS)
    seconds = media_models.lengths(arguments.recordings)
    write(folder / "in.parquet", list(seconds))
    write(folder / "warm.parquet", [2.0, 2.5])
    candidates: dict[str, tuple[Callable[..., Spent], int]] = {
        "ours": (ours, 1),
        "script": (script, 1),
        "batched": (batched, 1),
    }
    if arguments.two_threads:
        candidates["two_threads"] = script, WORKERS
    spent: dict[str, list[Spent]] = {name: [] for name in candidates}
    for turn in range(arguments.repeats):
        for name, (candidate, threads) in candidates.items():
            spent[name].append(alone(candidate, folder, threads))
            say(f"turn {turn + 1}, {name}: {spent[name][-1][0]:.1f} s, {spent[name][-1][1]:.1f} s of work")
    wall = {name: statistics.median(one for one, _ in runs) for name, runs in spent.items()}
    ratios = {name: round(seconds / wall["ours"], 2) for name, seconds in wall.items()}
    return {
        "vs_hf_pipeline": ratios["script"],
        "vs_two_scripts": round(wall["script"] / 2 / wall["ours"], 2),
        "vs_batched": ratios["batched"],
        "vs_two_threads": ratios.get("two_threads"),
        "work": {name: round(statistics.median(one for _, one in runs), 1) for name, runs in spent.items()},
        "seconds": {name: [round(one, 1) for one, _ in runs] for name, runs in spent.items()},
        "recorded_seconds": round(seconds.sum()),
    }


def write(path: Path, seconds: list[float]) -> None:
    pq.write_table(pa.table({"audio": pa.array(media_models.recordings(seconds), pa.binary())}), path)


def ours(folder: Path, _: int) -> Spent:
    from idlegrid.api import Grid

    options = {"audio_column": "audio", "model": str(folder / "whisper")}
    with Grid(workers=WORKERS, dashboard_address=None) as grid:
        grid.transcribe_parquet(str(folder / "warm.parquet"), fresh(folder / "warm"), unit_rows=1, **options)
        begun = now()
        report = grid.transcribe_parquet(str(folder / "in.parquet"), fresh(folder / "ours"), **options)
        spent = since(begun)
    assert report.errors == 0, report
    return spent


def script(folder: Path, threads: int) -> Spent:
    """What the model card of Whisper shows, and most people write."""
    pipe = hf_pipeline(folder, threads)
    begun = now()
    table = pq.read_table(folder / "in.parquet")
    texts = [pipe(decoded(file), batch_size=8)["text"] for file in table["audio"].to_pylist()]
    pq.write_table(table.append_column("text", pa.array(texts)), folder / "hf.parquet")
    return since(begun)


def batched(folder: Path, threads: int) -> Spent:
    """The same, where batches go over all files."""
    pipe = hf_pipeline(folder, threads)
    begun = now()
    table = pq.read_table(folder / "in.parquet")
    sounds = [decoded(file) for file in table["audio"].to_pylist()]
    texts = [one["text"] for one in pipe(sounds, batch_size=8)]
    pq.write_table(table.append_column("text", pa.array(texts)), folder / "hf-batched.parquet")
    return since(begun)


def hf_pipeline(folder: Path, threads: int) -> Any:
    import torch
    from transformers import pipeline

    torch.set_num_threads(threads)
    options = {"chunk_length_s": 30, "generate_kwargs": {"num_beams": 1}}
    pipe = pipeline("automatic-speech-recognition", model=str(folder / "whisper"), device="cpu", **options)
    for file in pq.read_table(folder / "warm.parquet")["audio"].to_pylist():
        pipe(decoded(file), batch_size=8)
    return pipe


def decoded(file: bytes) -> Any:
    import io

    import soundfile

    return soundfile.read(io.BytesIO(file), dtype="float32")[0]


def fresh(folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    return str(folder)


# -- isolation -------------------------------------------------------------------------------------


def isolation(folder: Path) -> dict[str, Any]:
    """Milliseconds, medians."""
    from idlegrid.actors.isolation.task import run_isolated
    from idlegrid.actors.media.audio import decode_audio
    from idlegrid.actors.media.limits import BULK_AUDIO
    from idlegrid.actors.media.reading_audio import blocks
    from idlegrid.grid.job_types import ALONE

    found: dict[str, Any] = {}
    for seconds in (10, 120):
        [file] = media_models.recordings([seconds])
        here = milliseconds(lambda file=file: sum(len(block) for block in blocks(file, 16_000, BULK_AUDIO)))
        apart = milliseconds(lambda file=file: decode_audio(file, limits=BULK_AUDIO))
        found[f"decode_{seconds}_s_ms"] = {"isolated": apart, "in_process": here}
    sys.path += [str(Path(__file__).resolve().parents[1] / "tests"), str(folder)]
    import naughty

    naughty.install(folder)
    import naughty_types

    task, params = naughty_types.JOB_TYPE, naughty_types.Params()
    found["task_ms"] = {
        "isolated": milliseconds(lambda: run_isolated("naughty", {}), times=5),
        "in_process": milliseconds(lambda: task.run(params, ALONE)),
    }
    return found


def milliseconds(work: Callable[[], Any], times: int = 15) -> float:
    work()
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        spent.append(1000 * (time.perf_counter() - begun))
    return round(statistics.median(spent), 2)


# -- pictures --------------------------------------------------------------------------------------


def images(folder: Path) -> dict[str, Any]:
    import torch

    from idlegrid.actors.diffusion.model import DiffusionModel
    from idlegrid.actors.diffusion.picture import Wish

    torch.set_num_threads(1)
    media_models.diffusion(folder / "sd")
    wishes = [Wish(prompt=f"a fox {index}", width=64, height=64, steps=STEPS, seed=index) for index in range(PICTURES)]
    spent = {}
    for batch in (1, TOGETHER):
        model = DiffusionModel(str(folder / "sd"), device="cpu", batch=batch)
        spent[batch] = milliseconds(lambda model=model: model.draw(wishes), times=3) / PICTURES
    say(f"a picture: {spent[1]:.0f} ms alone, {spent[TOGETHER]:.0f} ms of {TOGETHER}")
    return {"batch_gain": round(spent[1] / spent[TOGETHER], 2), "picture_ms": round(spent[1], 1)}


# -- measuring -------------------------------------------------------------------------------------


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run it in a fresh process, so that nobody profits from what another one loaded."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout=600)


def now() -> Spent:
    """The time, and the work so far of this process and those that it started and that live."""
    mine = psutil.Process()
    family = [mine, *mine.children(recursive=True)]
    return time.perf_counter(), sum(one.cpu_times().user + one.cpu_times().system for one in family)


def since(begun: Spent) -> Spent:
    ended = now()
    return ended[0] - begun[0], ended[1] - begun[1]


def conditions(arguments: argparse.Namespace, load: float) -> dict[str, Any]:
    return {
        **vars(arguments),
        "workers": WORKERS,
        "tokens_a_window": TOKENS,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "versions": {name: version(name) for name in ("torch", "transformers", "diffusers", "distributed")},
    }


if __name__ == "__main__":
    main()
