import itertools
import json
import random

import pytest
import torch

from idlegrid.actors.llm.layout import PlanRefused
from idlegrid.actors.llm.plan import Copy, Plan, Span
from idlegrid.actors.llm.stage import Stage

FAMILIES = ("llama", "llama-biased", "qwen2", "qwen3", "mistral")
LAYERS = 3
ALL = range(LAYERS)


def cuts(layers=LAYERS):
    """Every way to cut the layers into stages."""
    for places in itertools.product((False, True), repeat=layers - 1):
        edges = [0, *(index + 1 for index, cut in enumerate(places) if cut), layers]
        yield tuple(range(start, stop) for start, stop in itertools.pairwise(edges))


def chain(model, cut=(ALL,), dtype=torch.float32, num_blocks=64, block_size=16):
    return [Stage(model.folder, part, dtype=dtype, num_blocks=num_blocks, block_size=block_size) for part in cut]


def prompts(draw, *lengths):
    return [[draw.randrange(128) for _ in range(length)] for length in lengths]


@pytest.mark.slow
@pytest.mark.parametrize("cut", list(cuts()), ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cut_gives_the_tokens_of_generate(family, dtype, cut, make_model, drive):
    draw, model = random.Random(f"{family}{dtype}{cut}"), make_model(family, dtype)
    block_size = draw.choice((1, 3, 8, 16, 32))
    asked = prompts(draw, 1, block_size, 2 * block_size + 1, 5, 33, 40)
    stages = chain(model, cut, getattr(torch, dtype), num_blocks=6 * -(-96 // block_size), block_size=block_size)
    answers = drive(stages, asked, new=20, draw=draw, chunk=draw.choice((1, 7, 40)))
    assert answers == [model.greedy(prompt, 20) for prompt in asked]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_greedy_tokens_of_a_short_chain(family, make_model, drive):
    draw, model = random.Random(4), make_model(family)
    asked = prompts(draw, 3, 18)
    answers = drive(chain(model, (range(1), range(1, 3))), asked, new=6, draw=draw)
    assert answers == [model.greedy(prompt, 6) for prompt in asked]


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, "llama-yarn", "llama-linear", "qwen2-windowed"])
def test_logits_are_those_of_the_whole_model(family, make_model, forward):
    model, stages = make_model(family), chain(make_model(family), (range(2), range(2, 3)))
    first, second = prompts(random.Random(1), 50, 30)
    spans = [Span(0, tuple(first[:23]), (3, 1)), Span(0, tuple(second), (7, 2), logits=30)]
    assert_near(forward(stages, spans), model.logits(second))
    # the rest of the first prompt in a chunk, then token by token beside it the second one
    assert_near(forward(stages, [Span(23, tuple(first[23:]), (3, 1, 9, 4), logits=2)]), model.logits(first)[-2:])
    for token in (5, 9, 100):
        first, second = [*first, token], [*second, token]
        spans = [Span(len(first) - 1, (token,), (3, 1, 9, 4), 1), Span(len(second) - 1, (token,), (7, 2, 0), 1)]
        expected = torch.stack([model.logits(first)[-1], model.logits(second)[-1]])
        assert_near(forward(stages, spans), expected)


def assert_near(ours, theirs):
    assert ours.dtype is torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_contexts_beyond_the_smallest_slab(make_model, drive):
    draw, model = random.Random(2), make_model("llama")
    asked = prompts(draw, 250, 505, 20)
    answers = drive(chain(model, num_blocks=80), asked, new=20, draw=draw, chunk=300)
    assert answers == [model.greedy(prompt, 20) for prompt in asked]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near(family, make_model, forward):
    model, stages = make_model(family), chain(make_model(family), (range(2), range(2, 3)), torch.bfloat16)
    (prompt,) = prompts(random.Random(1), 41)
    forward(stages, [Span(0, tuple(prompt[:-1]), (5, 3, 1))])
    logits = forward(stages, [Span(40, (prompt[-1],), (5, 3, 1), 1)])
    exact = model.logits(prompt)[-1:]
    assert torch.nn.functional.cosine_similarity(logits, exact).item() > 0.999


def test_a_span_that_verifies_a_draft_has_logits_for_each_token(make_model, forward):
    model = make_model("qwen2")
    stages = chain(model)
    (ids,) = prompts(random.Random(3), 24)
    forward(stages, [Span(0, tuple(ids[:20]), (0, 1))])
    assert_near(forward(stages, [Span(20, tuple(ids[20:]), (0, 1), logits=4)]), model.logits(ids)[20:])
    # the last three were refused: their places are computed anew
    better = [*ids[:21], 7]
    assert_near(forward(stages, [Span(21, (7,), (0, 1), 1)]), model.logits(better)[-1:])


def test_a_copied_page_goes_its_own_way(make_model, forward):
    model = make_model("llama")
    stages = chain(model, (range(2), range(2, 3)))
    (ids,) = prompts(random.Random(5), 20)
    forward(stages, [Span(0, tuple(ids), (0, 1), 1)])
    left, right = [*ids, 3], [*ids, 4]
    spans = [Span(20, (3,), (0, 1), 1), Span(20, (4,), (0, 6), 1)]
    expected = torch.stack([model.logits(left)[-1], model.logits(right)[-1]])
    assert_near(forward(stages, spans, (Copy(1, 6),)), expected)
    spans = [Span(21, (9,), (0, 6), 1), Span(21, (8,), (0, 1), 1)]
    expected = torch.stack([model.logits([*right, 9])[-1], model.logits([*left, 8])[-1]])
    assert_near(forward(stages, spans), expected)


def test_a_prefix_that_the_same_step_computes_is_read(make_model, forward):
    """The sequencer may share a block that another span of the step fills: all keys are written before any is read."""
    model = make_model("llama")
    (ids,) = prompts(random.Random(6), 17)
    spans = [Span(0, tuple(ids[:16]), (2,), 1), Span(16, (ids[16],), (2, 3), 1)]
    assert_near(forward(chain(model), spans), model.logits(ids)[-2:])


def test_blocks_that_changed_hands_are_read_anew(make_model, forward):
    """A sequence ends, another gets its blocks, decodes to the same length, in another order of events."""
    model, stages = make_model("llama"), chain(make_model("llama"))
    one, two = prompts(random.Random(7), 20, 20)
    for ids in (one, two, one):
        forward(stages, [Span(0, tuple(ids), (0, 1))])
        assert_near(forward(stages, [Span(20, (1,), (0, 1), 1)]), model.logits([*ids, 1])[-1:])


def test_each_stage_loads_its_own_bytes(make_model):
    model = make_model("llama")
    sizes = {name: tensor.nbytes for name, tensor in model.peer.state_dict().items() if name != "lm_head.weight"}
    stages = chain(model, (range(1), range(1, 2), range(2, 3)))
    ends = (["model.embed_tokens.weight"], [], ["model.embed_tokens.weight", "model.norm.weight"])
    for index, (stage, extra) in enumerate(zip(stages, ends, strict=True)):
        own = sum(size for name, size in sizes.items() if name.startswith(f"model.layers.{index}."))
        assert stage.bytes_loaded == own + sum(sizes[name] for name in extra)


def test_a_stage_opens_only_the_files_it_needs(make_model):
    sharded = make_model("llama-biased", max_shard_size="60KB")
    index = json.loads((sharded.folder / "model.safetensors.index.json").read_text())["weight_map"]
    (middle,) = chain(sharded, (range(1, 2),))
    assert len(set(index.values())) > 3
    assert middle.files_opened == sorted({file for name, file in index.items() if name.startswith("model.layers.1.")})
    whole = chain(make_model("llama-biased"))
    span = [Span(0, (1, 2, 3), (0,), 1)]
    assert torch.equal(chain(sharded)[0].forward(Plan(0, tuple(span))), whole[0].forward(Plan(0, tuple(span))))


def test_pages_travel_between_chains_that_are_cut_differently(make_model, forward):
    model = make_model("mistral")
    prefill, decode = chain(model, (range(1), range(1, 3))), chain(model, (range(2), range(2, 3)))
    (ids,) = prompts(random.Random(8), 37)
    forward(prefill, [Span(0, tuple(ids), (5, 1, 8), 1)])
    # what was there before must not shine through
    forward(decode, [Span(0, tuple(reversed(ids)), (2, 4, 6))])
    forward(decode, [Span(37, (1,), (2, 4, 6), 1)])
    for source, target in itertools.product(prefill, decode):
        shared = range(max(source.layers.start, target.layers.start), min(source.layers.stop, target.layers.stop))
        if shared:
            target.load((2, 4, 6), source.export((5, 1, 8), shared))
    expected = model.logits([*ids, 1])[-1:]
    assert_near(forward(decode, [Span(37, (1,), (2, 4, 6), 1)]), expected)


def test_what_is_not_the_stages_is_refused(make_model):
    model = make_model("llama")
    first, last = chain(model, (range(2), range(2, 3)))
    plan = Plan(1, (Span(0, (1, 2), (0,), 1),))
    with pytest.raises(PlanRefused, match="first stage takes token ids"):
        last.forward(plan)
    with pytest.raises(PlanRefused, match="first stage takes token ids"):
        first.forward(plan, torch.zeros(2, 64))
    with pytest.raises(PlanRefused, match=r"hidden states are \(3, 64\)"):
        last.forward(plan, torch.zeros(3, 64))
    with pytest.raises(PlanRefused, match="layer 2 isn't here"):
        first.export([0], range(1, 3))
    first.forward(plan)
    with pytest.raises(PlanRefused, match="step 1 after step 1"):
        first.forward(plan)
    with pytest.raises(ValueError, match="no range of layers"):
        chain(model, (range(1, 5),))


def test_a_refused_plan_changes_nothing(make_model, forward):
    stages = chain(make_model("llama"), num_blocks=4)
    forward(stages, [Span(0, (1, 2), (0,), 1)])
    before = stages[0].pages.data.clone()
    with pytest.raises(PlanRefused, match="blocks are 0 to 9"):
        forward(stages, [Span(0, (5,), (1,)), Span(0, (4, 5), (0, 9))], (Copy(0, 2),))
    assert torch.equal(stages[0].pages.data, before)
    forward(stages, [Span(2, (1,), (0,), 1)])
