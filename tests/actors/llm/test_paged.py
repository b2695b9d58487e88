"""The way of CUDA: pages read where they lie, padded decode steps. Here on a CPU, and on a GPU where there is one."""

import random

import pytest
import torch

from idlegrid.actors.llm.plan import Span
from idlegrid.actors.llm.stage import Stage

PROMPTS = ((3, 1, 4, 1, 5), (9,) * 33, (2, 7, 1, 8) * 5)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def chain(model, *, dtype=torch.float32, device="cpu", attention="paged"):
    return [
        Stage(model.folder, part, dtype=dtype, device=device, num_blocks=40, block_size=4, attention=attention)
        for part in (range(1), range(1, 3))
    ]


@pytest.mark.parametrize("family", ["llama", pytest.param("mistral", marks=pytest.mark.slow)])
def test_padded_decode_gives_the_tokens_of_generate(family, make_model, drive):
    model = make_model(family)
    answers = drive(chain(model), PROMPTS, new=12, draw=random.Random(1))
    assert answers == [model.greedy(prompt, 12) for prompt in PROMPTS]


def test_sizes_are_powers_of_two_so_that_few_are_recorded(make_model, forward):
    stages = chain(make_model("llama"))
    forward(stages, [Span(0, (1,) * 4, (index,)) for index in range(7)])
    for count in (5, 6, 7):
        forward(stages, [Span(4, (1,), (index, 10 + index), 1) for index in range(count)])
    assert set(stages[0]._graphs._recordings) == {(8, 2)}


def test_padding_writes_no_page_of_anybody(make_model, forward):
    first, last = chain(make_model("llama"))
    forward([first, last], [Span(0, (1,), (index,), 1) for index in (0, 7, 39)])
    assert touched(first) == [0, 7, 39, 40]  # 40 is the spare one
    assert touched(last) == [0, 7, 39]  # padding is zeros here, and so are its keys


def touched(stage):
    return stage.pages.data.flatten(2).any(-1).any(0).nonzero().flatten().tolist()


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_fp32_on_a_gpu_gives_the_tokens_of_generate(family, make_model, drive):
    model = make_model(family)
    answers = drive(chain(model, device="cuda"), PROMPTS, new=12, draw=random.Random(1))
    assert answers == [model.greedy(prompt, 12) for prompt in PROMPTS]


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_gpu_is_near(dtype, make_model, forward):
    model = make_model("qwen3")
    stages = chain(model, dtype=dtype, device="cuda")
    ids = list(PROMPTS[1])
    forward(stages, [Span(0, tuple(ids), tuple(range(9)))])
    for token in (5, 6):
        ids.append(token)
        logits = forward(stages, [Span(len(ids) - 1, (token,), tuple(range(9)), 1)]).cpu()
        assert torch.nn.functional.cosine_similarity(logits, model.logits(ids)[-1:]).item() > 0.999


@on_gpu
@pytest.mark.slow
def test_a_recording_is_replayed_on_a_gpu(make_model, forward):
    stages = chain(make_model("llama"), device="cuda")
    for step in range(3):
        forward(stages, [Span(step, (1,), (0,), 1)])
    (recording,) = stages[0]._graphs._recordings.values()
    assert recording.graph is not None
