"""The sequencer over real stages, greedy: whatever it plans, the tokens are those of transformers.generate."""

import random

import pytest
import torch

from idlegrid.actors.llm.request import Request, Sampling
from idlegrid.actors.llm.sequencer import Accepted, Sequencer, SequencerConfig
from idlegrid.actors.llm.stage import Stage

FAMILIES = ("llama", "llama-biased", "qwen2", "qwen3", "mistral")
pytestmark = pytest.mark.slow


def scenario(draw, count):
    """Prompts that often begin like another, and how many tokens are wanted."""
    prompts = []
    for _ in range(count):
        old = draw.choice([*prompts, ()])
        start = old[: draw.randint(0, min(50, len(old)))]
        prompts.append((*start, *(draw.randrange(128) for _ in range(draw.randint(1, 30)))))
    return [
        Request(id=f"r{index}", prompt=prompt, sampling=Sampling(max_tokens=draw.randint(8, 30)))
        for index, prompt in enumerate(prompts)
    ]


def run(sequencer, stages, forward, requests, truth, draw):
    """Requests come at random moments, good and bad drafts are proposed, some steps are lost.

    Returns tokens by request, how many were preempted, how many draft tokens were right.
    """
    waiting, texts = list(requests), {request.id: [] for request in requests}
    preempted = right = 0
    while waiting or sequencer.has_work:
        while waiting and draw.random() < 0.8:
            sequencer.add(waiting.pop(0), now=0.0)
        for name, text in texts.items():
            if draw.random() < 0.2:
                draft = truth[name][len(text) : len(text) + 3]
                sequencer.propose(name, tuple(draw.choice((token, token, 7)) for token in draft))
        step = sequencer.schedule(now=0.0)
        preempted += len(step.preempted)
        if not step:
            continue
        chosen = forward(stages, step.plan.spans, step.plan.copies, step.plan.step).argmax(-1).tolist()
        if draw.random() < 0.05:
            sequencer.fail(step)
            continue
        answers = [Accepted(verified(row, chosen)) for row in step.rows]
        for row, answer in zip(step.rows, answers, strict=True):
            texts[row.id] += answer.tokens
            right += len(answer.tokens) - 1
        sequencer.update(step, answers)
        sequencer.check()
    return texts, preempted, right


def verified(row, chosen):
    """The draft's tokens as far as they are the model's own, and the one after."""
    tokens = [chosen[row.first]]
    for index, guess in enumerate(row.draft):
        if tokens[-1] != guess:
            break
        tokens.append(chosen[row.first + index + 1])
    return tuple(tokens)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_tokens_are_those_of_generate(family, seed, make_model, forward):
    draw, model = random.Random(f"{family}{seed}"), make_model(family)
    block_size = draw.choice((2, 4, 8))
    num_blocks = 128 // block_size + draw.randint(0, 8)
    config = SequencerConfig(
        num_blocks=num_blocks, block_size=block_size, max_batched_tokens=draw.randint(8, 64), max_sequences=16
    )
    sequencer, requests = Sequencer(config), scenario(draw, 16)
    cut = draw.choice([(range(3),), (range(1), range(1, 3)), (range(1), range(1, 2), range(2, 3))])
    stages = [
        Stage(model.folder, part, dtype=torch.float32, num_blocks=num_blocks, block_size=block_size) for part in cut
    ]
    truth = {request.id: model.greedy(request.prompt, request.sampling.max_tokens) for request in requests}
    texts, preempted, right = run(sequencer, stages, forward, requests, truth, draw)
    assert texts == truth
    assert preempted
    assert right
    assert sequencer.stats().prefix_hit_tokens
