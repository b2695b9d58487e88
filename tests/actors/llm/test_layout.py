import pytest
import torch

from idlegrid.actors.llm.layout import PlanRefused, check, lay_out
from idlegrid.actors.llm.plan import Copy, Plan, Span

GOOD = Span(5, (1, 2, 3), (7, 2), logits=2)


def checked(*spans, step=4, copies=()):
    check(Plan(step, spans, copies), after=3, num_blocks=8, block_size=4, vocab=10)


def test_spans_are_packed_one_after_the_other():
    plan = Plan(0, (GOOD, Span(0, (9, 8), (3,)), Span(4, (6,), (0, 1), 1)))
    layout = lay_out(plan, 4, torch.device("cpu"))
    assert layout.offsets == (0, 3, 5, 6)
    assert layout.tokens.tolist() == [1, 2, 3, 9, 8, 6]
    assert layout.positions.tolist() == [5, 6, 7, 0, 1, 4]
    assert layout.slots.tolist() == [9, 10, 11, 12, 13, 4]
    assert layout.logit_rows.tolist() == [1, 2, 5]
    assert layout.written == (2, 3, 1)


def test_no_selection_where_all_have_logits():
    assert lay_out(Plan(0, (Span(4, (6,), (0, 1), 1),)), 4, torch.device("cpu")).logit_rows is None


@pytest.mark.parametrize(
    ("span", "why"),
    [
        (Span(0, (), (1,)), "no tokens"),
        (Span(-1, (1,), (1,)), "before position 0"),
        (Span(3, (1, 2), (1,)), "its 1 blocks of 4 end before position 4"),
        (Span(0, (1,), (8,)), "blocks are 8 to 8, the stage has 0 to 7"),
        (Span(0, (1,), (-1,)), "blocks are -1 to -1"),
        (Span(0, (1,), (1,), logits=2), "2 rows of logits of 1 tokens"),
        (Span(0, (10,), (1,)), "token ids are 10 to 10, the model has 0 to 9"),
    ],
)
def test_a_wrong_span_is_refused_with_the_reason(span, why):
    checked(GOOD)
    with pytest.raises(PlanRefused, match=why):
        checked(GOOD, span)


def test_a_wrong_plan_is_refused_with_the_reason():
    with pytest.raises(PlanRefused, match="step 3 after step 3"):
        checked(GOOD, step=3)
    with pytest.raises(PlanRefused, match="no spans"):
        checked()
    with pytest.raises(PlanRefused, match="names block 8"):
        checked(GOOD, copies=(Copy(0, 8),))
    with pytest.raises(PlanRefused, match="spans 0 and 1 both write block 2"):
        checked(GOOD, Span(0, (1,), (2,)))
