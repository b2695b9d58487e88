"""Stages that are killed, stopped and woken while requests run: the tokens are those of an undisturbed run."""

import asyncio
import signal

import pytest
from cut_scenario import cuts, sequencer
from engine_scenario import asked, run
from processes import SLEEPY, Disturbed, Grid

from idlegrid.actors.llm.core import EngineCore
from idlegrid.actors.llm.request import FinishReason
from idlegrid.actors.shards.failover import Patience

pytestmark = pytest.mark.slow
THREE = list(cuts())[-1]


def test_whichever_stage_is_killed_at_whichever_step_the_tokens_are_the_same(model, tokenizer, right):
    """S1: a grid of three stages and eight steps; from the first chunks of prompts to the last tokens. With three steps
    under way all are lost."""
    with Grid(model.folder, THREE) as grid:
        grid.open(depth=3)
        core, same = EngineCore(sequencer(), Disturbed(grid.chain, -1, lambda: None)), 0
        for place, layers in enumerate(THREE):
            grid.spares += [type(grid.stages[0])(model.folder, layers) for _ in range(8)]
            for step in range(8):
                victim = grid.stages[place]
                core._chain = Disturbed(grid.chain, step, victim.kill)
                core.sequencer.blocks.pool.forget_all()  # else later runs have no prompts to compute
                assert run(core, tokenizer, asked()) == (right, {}), (place, step)
                same += grid.stages[place] is not victim
        assert same == 24
        assert grid.chain.mended == 24
        assert [loss.lost for loss in grid.losses] == [frozenset({place}) for place in range(3) for _ in range(8)]


@pytest.mark.parametrize(
    ("lost", "spares"),
    [((0, 1, 2), (range(1), range(1, 2), range(2, 3))), ((0, 2), (range(1), range(2, 3)))],
    ids=str,
)
def test_several_are_lost_at_once(lost, spares, model, tokenizer, right):
    with Grid(model.folder, THREE, spares) as grid:
        grid.open()

        def kill():
            for place in lost:
                grid.stages[place].kill()

        core = EngineCore(sequencer(), Disturbed(grid.chain, 5, kill))
        assert run(core, tokenizer, asked()) == (right, {})


def test_a_stage_may_be_replaced_by_two_of_which_one_is_lost_too(model, tokenizer, right):
    """S3; and what it was replaced by is lost in the prefill that makes good for it."""
    whole = (range(3),)
    with Grid(model.folder, whole, (range(1), range(1, 3), range(1, 2), range(2, 3))) as grid:
        grid.open()
        times = iter((lambda: grid.stages[0].kill(), lambda: grid.stages[1].kill()))
        chain = Disturbed(grid.chain, 6, lambda: next(times)())
        core = EngineCore(sequencer(), Again(chain, 1))
        assert run(core, tokenizer, asked()) == (right, {})
        assert [stage.layers for stage in grid.stages] == [range(1), range(1, 2), range(2, 3)]
        assert grid.chain.mended == 2


class Again:
    """What happens, happens once more, so many steps after the chain was mended."""

    def __init__(self, chain, after):
        self.chain, self.after = chain, after

    @property
    def depth(self):
        return self.chain.depth

    def parts(self, tokens):
        return self.chain.parts(tokens)

    def submit(self, plan, rows, unless=None):
        return self.chain.submit(plan, rows, unless)

    def mend(self, why):
        if self.after is not None:
            self.chain.left, self.after = self.after, None
        return self.chain.mend(why)


def test_a_stage_that_is_stopped_is_replaced_and_disturbs_nothing_when_it_wakes(model, tokenizer, right):
    """S6 and S4: found by the beats of its links; what it then computes in the old epoch is refused."""
    with Grid(model.folder, THREE, (range(1, 2),), pace=SLEEPY) as grid:
        grid.open(Patience(mend=60.0, probe=2.0, join=20.0))
        victim = grid.stages[1]
        core = EngineCore(sequencer(), Disturbed(grid.chain, 5, lambda: victim.signal(signal.SIGSTOP)))
        assert run(core, tokenizer, asked()) == (right, {})
        assert victim in grid.gone
        epoch = grid.chain.head.epoch
        core._chain = Disturbed(grid.chain, 2, lambda: victim.signal(signal.SIGCONT))
        for _ in range(3):
            assert run(core, tokenizer, asked()) == (right, {})
        assert grid.chain.head.epoch == epoch


def test_who_was_only_silent_is_taken_again_where_nothing_replaces_it(model, tokenizer, right):
    """A network that blinks: the same stage goes on, and requests with it."""
    with Grid(model.folder, THREE, pace=SLEEPY) as grid:
        grid.open(Patience(mend=60.0, probe=0.5, join=20.0))
        victim, asking = grid.stages[1], grid.replace

        async def in_vain(loss):
            stages = list(grid.stages)
            try:
                return await asking(loss)
            finally:
                grid.stages, grid.gone = stages, []
                victim.signal(signal.SIGCONT)

        grid.chain._replacer = in_vain
        core = EngineCore(sequencer(), Disturbed(grid.chain, 5, lambda: victim.signal(signal.SIGSTOP)))
        assert run(core, tokenizer, asked()) == (right, {})
        assert [loss.lost for loss in grid.losses][:1] == [frozenset({1})]


def test_with_nothing_to_replace_it_requests_end_with_the_reason_and_later_ones_go_on(model, tokenizer, right):
    """S7."""
    with Grid(model.folder, THREE) as grid:
        grid.open()
        core = EngineCore(sequencer(), Disturbed(grid.chain, 5, grid.stages[1].kill))
        _, bad = run(core, tokenizer, asked())
        assert {end.reason for end in bad.values()} == {FinishReason.ERROR}
        assert {end.error for end in bad.values()} == {"the model's chain broke: nobody has layers 1-1"}
        assert len(bad) == 6
        grid.spares.append(type(grid.stages[0])(model.folder, range(1, 2)))
        assert run(core, tokenizer, asked()) == (right, {})


def test_who_hangs_is_not_waited_for_longer_than_asked_where_nothing_replaces_it(model, tokenizer):
    """S7: else requests would wait until the mending may take no longer."""
    with Grid(model.folder, THREE, pace=SLEEPY) as grid:
        grid.open(Patience(mend=600.0, probe=0.5, join=20.0, lack=0.0))
        victim = grid.stages[1]
        core = EngineCore(sequencer(), Disturbed(grid.chain, 5, lambda: victim.signal(signal.SIGSTOP)))
        _, bad = run(core, tokenizer, asked())
        assert {end.error for end in bad.values()} == {"the model's chain broke: nobody has layers 1-1"}


def test_who_finds_nothing_in_time_is_told_so(model, tokenizer):
    with Grid(model.folder, THREE) as grid:
        grid.open(Patience(mend=0.5))

        async def never(loss):
            await asyncio.Event().wait()

        grid.chain._replacer = never
        core = EngineCore(sequencer(), Disturbed(grid.chain, 1, grid.stages[2].kill))
        _, bad = run(core, tokenizer, asked()[:1])
        assert bad["r0"].error == (
            "the model's chain broke: it was not whole again within 0.5 s: nothing replaced layers 2-2"
        )


def test_control_without_a_reset_the_tokens_are_wrong(model, tokenizer, right, monkeypatch):
    """The new stage has none of the pages that the sequencer believes in."""
    with Grid(model.folder, THREE, (range(1, 2),)) as grid:
        grid.open()
        core = EngineCore(sequencer(), Disturbed(grid.chain, 5, grid.stages[1].kill))
        monkeypatch.setattr(core.sequencer, "reset", lambda: keep_pages(core.sequencer))
        texts, _ = run(core, tokenizer, asked())
        assert texts != right


def keep_pages(plans):
    """As `fail`, but believing in what was computed before."""
    for step in list(plans.in_flight.values()):
        del plans.in_flight[step.plan.step]
        for sequence in step.sequences:
            sequence.flights.clear()
