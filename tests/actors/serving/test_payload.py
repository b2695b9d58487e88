"""Requests and events survive the wire exactly; what this version does not know is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.llm.request import Finished, FinishReason, Request, Sampling, TokenLogprob, Tokens
from idlegrid.actors.serving.payload import event_from_wire, event_to_wire, request_from_wire, request_to_wire
from idlegrid.actors.serving.wire import ProtocolError, pack, unpack

ids = st.lists(st.integers(0, 2**31), max_size=5).map(tuple)
rates = st.floats(-2, 2, allow_nan=False)
samplings = st.builds(
    Sampling,
    max_tokens=st.integers(1, 100),
    temperature=rates,
    logit_bias=st.dictionaries(st.integers(0, 100), rates, max_size=3),
    stop=st.lists(st.text(), max_size=3).map(tuple),
    stop_token_ids=ids,
    logprobs=st.none() | st.integers(0, 5),
    json_schema=st.none() | st.text(),
)
requests = st.builds(
    Request,
    id=st.text(),
    prompt=ids,
    known=ids,
    sampling=samplings,
    timeout=st.none() | st.floats(0.1, 100),
    salt=st.text(),
    priority=st.integers(-5, 5),
)
tops = st.lists(st.tuples(st.integers(0, 9), rates), max_size=3).map(tuple)
events = st.builds(
    Tokens,
    ids=ids,
    text=st.text(),
    logprobs=st.lists(st.builds(TokenLogprob, st.integers(0, 9), rates, tops)).map(tuple),
) | st.builds(
    Finished,
    reason=st.sampled_from(FinishReason),
    text=st.text(),
    prompt_tokens=st.integers(0, 9),
    stop=st.none() | st.text() | st.integers(0, 9),
    error=st.none() | st.text(),
)


def sent(wire):
    return unpack(pack({"op": "x", "value": wire})[4:])["value"]


@given(requests)
def test_a_request_comes_back_as_it_was(request):
    assert request_from_wire(sent(request_to_wire(request))) == request


@given(events)
def test_an_event_comes_back_as_it_was(event):
    assert event_from_wire(sent(event_to_wire(event))) == event


@pytest.mark.parametrize(
    "wire",
    [
        {"id": "a"},
        {"id": "a", "prompt": [1], "new_rule": True},
        {"id": "a", "prompt": "abc"},
        {"id": "a", "prompt": [1.5]},
        {"id": "a", "prompt": [1], "sampling": {"colour": 3}},
        {"id": "a", "prompt": [1], "sampling": 3},
    ],
)
def test_a_request_that_is_not_understood_is_refused(wire):
    with pytest.raises(ProtocolError, match="can't be read"):
        request_from_wire(wire)


@pytest.mark.parametrize("wire", [{}, 3, {"ids": "abc", "text": ""}, {"reason": "tired"}, {"ids": [1]}])
def test_an_event_that_is_not_understood_is_refused(wire):
    with pytest.raises(ProtocolError):
        event_from_wire(wire)
