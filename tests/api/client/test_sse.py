import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.api.client.sse import Decoder, Message


def read(*chunks):
    decoder = Decoder()
    return [message for chunk in chunks for message in decoder.feed(chunk)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_fields_comments_and_ends_of_lines(end):
    text = end.join([": ping", "id: 3", "event: status", 'data: {"a":', "data:1}", "", "data: x", "", "rest"])
    assert read(text.encode()) == [Message("status", '{"a":\n1}', "3"), Message("message", "x", "3")]


def test_what_python_takes_for_a_line_is_none():
    assert read("data: a\u2028b\x85c\x0bd\n\n".encode()) == [Message("message", "a\u2028b\x85c\x0bd", "")]


def test_what_the_end_cuts_off_is_no_event():
    assert read(b"id: 1\ndata: whole\n\nid: 2\ndata: cut\n") == [Message("message", "whole", "1")]


def test_an_event_without_data_is_none():
    assert read(b"event: status\n\ndata: x\n\n") == [Message("message", "x", "")]


@given(
    st.lists(st.text(alphabet="ab:\u2028é ", max_size=6), max_size=8), st.sampled_from(["\n", "\r\n", "\r"]), st.data()
)
def test_however_the_bytes_are_cut(texts, end, data):
    stream = "".join(f"id: {number}{end}data: {text}{end}{end}" for number, text in enumerate(texts)).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    chunks = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = read(*chunks, b"\n" if end == "\r" else b"")  # a lone \r may be half of \r\n until something follows
    assert [(message.data, message.id) for message in found] == [(text, str(n)) for n, text in enumerate(texts)]
