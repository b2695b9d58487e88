"""What the sequencer costs: time to plan a step and to take its results in, per sequence that decodes in it.

One JSON object on the last line: `us_per_seq_step`, the median in µs by number of running sequences; `us_per_step_p99`,
the 99th percentile of whole steps; `us_admit_1k`, one request with a prompt of 1,024 tokens accepted and planned, by
the share of the prompt that the prefix cache holds; `preempting_us_per_seq_step`, with a pool that is too small.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import time

from idlegrid.actors.llm.request import Request, Sampling
from idlegrid.actors.llm.sequencer import Accepted, Sequencer, SequencerConfig, Step

SIZES = (16, 64, 256)
PROMPT, STEPS = 512, 300


def sequencer(sequences: int, blocks_each: int) -> Sequencer:
    """One with blocks for so many sequences."""
    return Sequencer(
        SequencerConfig(num_blocks=sequences * blocks_each, max_batched_tokens=2048, max_sequences=sequences)
    )


def a_prompt(draw: random.Random, length: int) -> tuple[int, ...]:
    """Random token ids."""
    return tuple(draw.randrange(150_000) for _ in range(length))


def results(step: Step) -> list[Accepted]:
    """A token for each row."""
    return [Accepted((7,))] * len(step.rows)


def decoding(sequences: int, blocks_each: int) -> list[tuple[float, int]]:
    """Seconds and spans of each of so many steps, once every sequence has been prefilled."""
    engine, draw = sequencer(sequences, blocks_each), random.Random(0)
    for number in range(sequences):
        engine.add(Request(id=str(number), prompt=a_prompt(draw, PROMPT), sampling=Sampling(max_tokens=4096)), now=0.0)
    while engine.stats().waiting or any(s.computed < PROMPT for s in engine.running):
        step = engine.schedule(0.0)
        engine.update(step, results(step))
        if step.preempted:
            break
    measured = []
    for number in range(STEPS):
        begin = time.perf_counter()
        step = engine.schedule(float(number))
        middle = time.perf_counter()
        answers = results(step)
        resumed = time.perf_counter()
        engine.update(step, answers)
        measured.append((time.perf_counter() - resumed + middle - begin, max(1, len(step.plan.spans))))
    engine.check()
    return measured


def admission(shared: float) -> float:
    """Median µs to accept a prompt of 1,024 tokens and plan its first step, `shared` of it known."""
    engine, draw, times = sequencer(64, 80), random.Random(1), []
    known = a_prompt(draw, int(1024 * shared))
    for number in range(40):
        request = Request(
            id=str(number), prompt=known + a_prompt(draw, 1024 - len(known)), sampling=Sampling(max_tokens=1)
        )
        begin = time.perf_counter()
        engine.add(request, now=0.0)
        step = engine.schedule(0.0)
        times.append(time.perf_counter() - begin)
        engine.update(step, results(step))
    return statistics.median(times[2:]) * 1e6


def main() -> None:
    """Measure, and print one line."""
    gc.disable()
    plenty = {size: decoding(size, (PROMPT + STEPS) // 16 + 2) for size in SIZES}
    tight = decoding(64, PROMPT // 16 + 4)
    figures = {
        "us_per_seq_step": {size: round(statistics.median(s / n for s, n in plenty[size]) * 1e6, 2) for size in SIZES},
        "us_per_step_p99": {
            size: round(statistics.quantiles((s for s, _ in plenty[size]), n=100)[98] * 1e6, 1) for size in SIZES
        },
        "us_admit_1k": {share: round(admission(share), 1) for share in (0.0, 0.9)},
        "preempting_us_per_seq_step": round(statistics.mean(s / n for s, n in tight) * 1e6, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
