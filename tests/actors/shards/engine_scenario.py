"""Requests through an engine over a chain; what is right is an undisturbed run in one process and one stage."""

import threading
from dataclasses import replace

import torch
from cut_scenario import BLOCK, BLOCKS, sequencer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from idlegrid.actors.llm.answer import Answer
from idlegrid.actors.llm.chain import LocalChain
from idlegrid.actors.llm.core import EngineCore
from idlegrid.actors.llm.request import Finished, FinishReason, Request, Sampling
from idlegrid.actors.llm.stage import Stage

SAMPLED = Sampling(max_tokens=10, temperature=1.3, top_p=0.95, frequency_penalty=0.5, seed=7)
CALM = 120.0


def byte_tokenizer():
    """Any ids have a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["a"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def asked():
    """Greedy and sampled, some that begin alike, one whose prompt takes several chunks."""
    common = tuple(range(20, 40))
    greedy = Sampling(max_tokens=10, temperature=0)
    prompts = [(*common, 3), (*common, 5, 9), (7,), tuple(range(1, 60)), (*common, 64), (11, 12, 13, 14)]
    return [
        Request(id=f"r{number}", prompt=prompt, sampling=replace(SAMPLED, seed=number) if number % 2 else greedy)
        for number, prompt in enumerate(prompts)
    ]


def run(core, tokenizer, requests):
    """Tokens by request, and the ends of those that did not end as they should."""
    texts, ends, news = {request.id: [] for request in requests}, {}, threading.Event()
    core.listen(news.set)
    told = []
    for request in requests:
        told += core.add(Answer(request, tokenizer, eos_ids=frozenset(), context=512), 0.0)
    while core.lives:
        news.clear()
        if not core.has_work:
            assert news.wait(CALM), "nothing comes any more"
        for name, event in core.step(0.0):
            if isinstance(event, Finished):
                ends[name] = event
            else:
                texts[name] += event.ids
    core.sequencer.check()
    assert core.sequencer.stats().kv_usage == 0
    return texts, {name: end for name, end in ends.items() if end.reason is not FinishReason.LENGTH}


def undisturbed(model, tokenizer):
    """What `run` gives of `asked()`, in one process, in one stage."""
    stage = Stage(model.folder, range(3), dtype=torch.float32, num_blocks=BLOCKS, block_size=BLOCK)
    texts, bad = run(EngineCore(sequencer(), LocalChain([stage])), tokenizer, asked())
    assert not bad
    assert texts["r0"] == model.greedy(asked()[0].prompt, 10)
    return texts
