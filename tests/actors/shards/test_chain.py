"""Chains over links, in one process: tokens, failures of a step, and epochs."""

import random
import threading
import uuid
from dataclasses import replace

import pytest
import torch
from cut_scenario import BLOCK, BLOCKS, GREEDY, cuts, generate, requests, sequencer, truth
from hosts import MODEL, PACE, Fleet

from idlegrid.actors.llm.chain import ChainBroken, LocalChain
from idlegrid.actors.llm.plan import Plan, Span
from idlegrid.actors.llm.request import Sampling
from idlegrid.actors.llm.sampling import SamplingRow
from idlegrid.actors.llm.stage import Stage
from idlegrid.actors.shards.errors import LinkFenced
from idlegrid.actors.shards.frame import Codec, Frame, Kind
from idlegrid.actors.shards.head import Head, StepLost
from idlegrid.actors.shards.link import Link
from idlegrid.actors.shards.step_wire import step_to_note, to_rows

pytestmark = pytest.mark.slow
ALL = tuple(cuts())
THREE = ALL[-1]


def rows(count=1, position=3):
    return [SamplingRow(GREEDY, position)] * count


@pytest.mark.parametrize("cut", ALL, ids=str)
def test_tokens_over_links_are_those_of_generate(cut, make_model):
    draw, model, plans = random.Random(str(cut)), make_model("llama"), sequencer()
    asked = requests(draw, 6)
    with Fleet(model, cut) as fleet:
        assert generate(plans, fleet.connect().head, asked, draw) == truth(model, asked)
        steps = plans.stats().steps
        assert [stage.host.computed for stage in fleet.stages] == [steps] * len(cut)  # each step passes each stage once


def test_sampled_tokens_do_not_depend_on_where_the_last_stage_is(make_model):
    model = make_model("qwen2")
    local = LocalChain([Stage(model.folder, range(3), dtype=torch.float32, num_blocks=BLOCKS, block_size=BLOCK)])
    wild = Sampling(temperature=1.5, top_p=0.95, seed=11, logprobs=2)
    with Fleet(model, THREE) as fleet:
        fleet.connect()
        for step in range(8):
            plan = Plan(step, (Span(step, (step + 1,), (0, 1, 2), 1), Span(step, (9,), (3, 4, 5), 1)))
            asked = [SamplingRow(replace(wild, seed=seed), step) for seed in (1, 2)]
            here, there = local.compute(plan, asked), fleet.head.compute(plan, asked)
            assert here.ids == there.ids
            assert [one.top[0][0] for one in here.logprobs] == [one.top[0][0] for one in there.logprobs]


def test_several_steps_may_be_under_way(make_model):
    """More than the window of a link."""
    model = make_model("llama")
    with Fleet(model, THREE) as fleet:
        fleet.connect()
        plans = [Plan(step, (Span(0, (step,), (step,), 1),)) for step in range(90)]
        answers = [fleet.head.submit(plan, rows()) for plan in plans]
        ids = [answer.result().ids[0] for answer in answers]
    assert ids == [int(model.logits([step])[-1].argmax()) for step in range(90)]


def test_bfloat16_halves_what_travels_and_a_bfloat16_model_loses_nothing(make_model):
    model = make_model("llama")
    plan = Plan(0, (Span(0, (5, 6, 7), (0,), 1),))
    with Fleet(model, THREE, torch.bfloat16) as fleet:
        raw = fleet.connect(Codec.RAW).head.compute(plan, rows())
        assert fleet.connect(Codec.BFLOAT16).head.compute(replace(plan, step=1), rows()) == raw
        assert fleet.connect(Codec.INT8).head.compute(replace(plan, step=2), rows()).failed == ()


def test_a_step_that_a_stage_refuses_is_lost_and_the_chain_goes_on(make_model):
    model = make_model("llama")
    with Fleet(model, THREE) as fleet:
        fleet.connect()
        good = Span(0, (5, 6), (0,), 1)
        with pytest.raises(StepLost, match=r"layers 0 to 0: PlanRefused.*token ids are 5 to 500"):
            fleet.head.compute(Plan(0, (replace(good, tokens=(5, 500)),)), rows())
        with pytest.raises(StepLost, match="layers 2 to 2: FrameRefused: 2 rows came for 1"):
            fleet.head.compute(Plan(1, (good,)), rows(2))
        fail_once(fleet.stages[1].stage)
        with pytest.raises(StepLost, match="layers 1 to 1: RuntimeError: out of everything"):
            fleet.head.compute(Plan(2, (good,)), rows())
        assert fleet.head.compute(Plan(3, (good,)), rows()).ids == (int(model.logits([5, 6])[-1].argmax()),)


def fail_once(stage):
    forward = stage.forward

    def failing(plan, x=None):
        stage.forward = forward
        raise RuntimeError("out of everything")

    stage.forward = failing


def hang(stage):
    """Its next step takes until the event is set."""
    forward, release = stage.forward, threading.Event()

    def hanging(plan, x=None):
        stage.forward = forward
        release.wait(60)
        return forward(plan, x)

    stage.forward = hanging
    return release


def test_a_stage_that_loses_its_neighbour_tells_the_head(make_model):
    """From stage to stage; nobody waits for the deadline of a step."""
    with Fleet(make_model("llama"), THREE, deadline=600.0) as fleet:
        fleet.connect()
        fleet.stages[2].thread.run(fleet.stages[2].host.leave()).result()
        with pytest.raises(ChainBroken, match=r"layers 0 to 0 lost what.*layers 1 to 1 lost what comes next"):
            fleet.head.compute(Plan(0, (Span(0, (5,), (0,), 1),)), rows())


def test_control_without_a_reset_the_tokens_are_wrong(make_model):
    """The new stage has none of the pages that the sequencer believes in."""
    draw, model, plans = random.Random(1), make_model("qwen3"), sequencer()
    asked = requests(draw, 5)
    with Fleet(model, THREE, deadline=1.0) as fleet:
        chain = Losing(fleet.connect(), 1, after=7)

        def broken(step):
            fleet.connect()
            plans.fail(step)

        assert generate(plans, chain, asked, draw, broken=broken) != truth(model, asked)


class Losing:
    """A chain that loses one of its stages once."""

    def __init__(self, fleet, place, after):
        self.fleet, self.place, self.left = fleet, place, after

    def compute(self, plan, rows):
        if self.left == 0:
            self.fleet.replace(self.place).close()
        self.left -= 1
        return self.fleet.head.compute(plan, rows)


def test_a_stage_that_was_replaced_can_not_disturb_the_chain(make_model):
    model = make_model("llama")
    plan = Plan(0, (Span(0, (5, 6), (0,), 1),))
    with Fleet(model, THREE) as fleet:
        fleet.connect()
        right = fleet.head.compute(plan, rows())
        zombie = fleet.replace(1)
        link = zombie.host._link
        fleet.connect()
        assert isinstance(zombie.thread.run(link.over()).result(60), LinkFenced)
        assert fleet.head.compute(replace(plan, step=1), rows()) == right


class Zombie:
    """A sender of an epoch that is over."""

    def __init__(self):
        self.told = []

    def refuse(self, why, epoch):
        self.told.append((why, epoch))


@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "control"])
def test_a_late_frame_of_an_old_epoch_is_refused_and_without_the_fence_it_answers_for_another(
    fenced, make_model, monkeypatch
):
    """S4. Control: the frame says the epoch that holds, as if there were none, and takes the place of a step of it."""
    model, sent = make_model("llama"), []
    wrong, right = (int(model.logits(prompt)[-1].argmax()) for prompt in ((5, 6, 7), (9, 10, 12)))
    assert wrong != right
    send = Link.send

    async def kept(link, step, **sending):
        sent.append((link.leg, step, {name: value for name, value in sending.items() if name != "within"}))
        await send(link, step, **sending)

    with Fleet(model, THREE) as fleet:
        fleet.connect()
        monkeypatch.setattr(Link, "send", kept)
        assert fleet.head.compute(Plan(0, (Span(0, (5, 6, 7), (0,), 1),)), rows()).ids == (wrong,)
        leg, step, what = next(each for each in sent if each[0].layers == THREE[1])
        what["note"] = step_to_note(Plan(1, (Span(0, (5, 6, 7), (0,), 1),)), to_rows(rows()), ids=False)  # as if lost
        fleet.connect()
        release, last, zombie = hang(fleet.stages[1].stage), fleet.stages[2], Zombie()
        answer = fleet.head.submit(Plan(2, (Span(0, (9, 10, 12), (0,), 1),)), rows())
        epoch = leg.epoch if fenced else fleet.head.epoch
        frame = Frame(Kind.DATA, chain=leg.chain, model=leg.model, layers=leg.layers, epoch=epoch, step=step, **what)

        async def comes():
            inlet = last.host._inlet
            inlet.data(zombie, inlet._chains[leg.chain], frame)

        last.thread.run(comes()).result()
        if fenced:
            release.set()
            assert zombie.told == [("the chain is in epoch 2", 2)]
        assert answer.result(60).ids == ((right,) if fenced else (wrong,))
        release.set()


def test_a_chain_that_is_not_connected_says_so(make_model):
    with Fleet(make_model("llama"), THREE) as fleet:
        with pytest.raises(ChainBroken, match="not connected"):
            fleet.head.compute(Plan(0, (Span(0, (5,), (0,), 1),)), rows())
        gap = [fleet.stages[0], fleet.stages[2]]
        fleet.stages, fleet.gone = gap, [fleet.stages[1]]
        with pytest.raises(ValueError, match="layers 0-0, 2-2 are not 0-2"):
            fleet.connect()
        fleet.head.close()
        with pytest.raises(ChainBroken, match="closed"):
            fleet.head.submit(Plan(0, (Span(0, (5,), (0,), 1),)), rows())


def test_an_answer_that_does_not_come_breaks_the_chain_in_time(make_model):
    model = make_model("llama")
    with Fleet(model, THREE, deadline=0.3) as fleet:
        fleet.connect()
        release = hang(fleet.stages[1].stage)
        with pytest.raises(ChainBroken, match=r"no answer to step 0 came within 0.3 s"):
            fleet.head.compute(Plan(0, (Span(0, (5,), (0,), 1),)), rows())
        with pytest.raises(ChainBroken):
            fleet.head.compute(Plan(1, (Span(0, (5,), (0,), 1),)), rows())
        release.set()
    assert PACE.silence > 0.3  # it was the step's own deadline


def test_a_new_sequencer_takes_the_same_stages_and_counts_its_own_steps(make_model):
    model = make_model("llama")
    with Fleet(model, THREE) as fleet:
        fleet.connect().head.compute(Plan(7, (Span(0, (5, 6), (0,), 1),)), rows())
        fleet.head.close()
        fleet.head = Head(uuid.uuid4().bytes, MODEL, 3, pace=PACE, deadline=60.0)
        answer = fleet.connect().head.compute(Plan(0, (Span(0, (9, 10), (0,), 1),)), rows())
        assert answer.ids == (int(model.logits([9, 10])[-1].argmax()),)
