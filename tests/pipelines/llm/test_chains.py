"""Models in stages, served from real worker processes: the tokens of the whole model, whoever comes, leaves or dies."""

import pytest
from chain_grid import CALM, LAYERS, MODEL, ChainGrid, split
from serving_helpers import Reader, a_request, ready

from idlegrid.actors.llm.request import FinishReason, Sampling
from idlegrid.pipelines.llm.deployment import Phase
from idlegrid.pipelines.llm.service import LlmService

pytestmark = pytest.mark.slow
PROMPT = tuple(range(20, 50))
LONG = 150


@pytest.fixture(scope="module")
def grid():
    with ChainGrid() as grid:
        grid.join(*"abcd")
        yield grid


@pytest.fixture(scope="module")
def right():
    """The first tokens that the whole model gives after `PROMPT`."""
    import torch
    from transformers import AutoModelForCausalLM

    from idlegrid.actors.models import resolve

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(resolve(MODEL), dtype=torch.float32).eval()
    ids = torch.tensor([PROMPT])
    stops = {"eos_token_id": None, "pad_token_id": 0, "max_new_tokens": LONG, "do_sample": False}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **stops)[0, len(PROMPT) :].tolist()


def greedy(id_, n=LONG):
    return a_request(id_, n, prompt=PROMPT, sampling=Sampling(max_tokens=n, temperature=0, ignore_eos=True))


def held(service):
    """Layers by donor."""
    return {one.donor_id: one.layers for one in service._models[MODEL].supervisor.replicas()[0].held(None)}


async def served(service):
    return (await service.models())[0]


async def test_two_and_three_stages_give_the_tokens_of_the_whole_model_and_leave_nothing(grid, right):
    await grid.whole(*"abcd")
    async with LlmService(grid.scheduler.address, patience=CALM) as service:
        for stages in (2, 3):
            service.deploy(split(stages))
            await ready(service, 1, MODEL)
            told = await served(service)
            assert [len(one.layers) for one in told.coverage] == [LAYERS // stages] * stages
            assert [layer for one in told.coverage for layer in one.layers] == list(range(LAYERS))
            assert len({one.donor_id for one in told.coverage}) == stages
            assert {one.phase for one in told.coverage} == {Phase.READY}
            assert (told.num_layers, told.ready, told.why) == (LAYERS, 1, "")
            assert sum(grid.running().values()) == stages
            readers = [Reader(service, greedy(f"{stages}.{number}", 40), MODEL) for number in range(3)]
            for reader in readers:
                assert (await reader.ended()).reason is FinishReason.LENGTH
                assert reader.tokens == right[:40]
            await service.withdraw(MODEL)
            await grid.idle()
