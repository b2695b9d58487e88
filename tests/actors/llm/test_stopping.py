import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idlegrid.actors.llm.stopping import StopChecker

letters = st.text(alphabet="abc", min_size=1, max_size=4)


def by_definition(text: str, stops: list[str], earliest_end: int) -> tuple[str, str | None]:
    """Cut before the stop that is complete first; the longer of two that are complete together."""
    for end in range(earliest_end + 1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


@given(st.lists(letters, max_size=12), st.lists(letters, max_size=4), st.integers(0, 6))
@example(["ab", "ab", "c"], ["abab", "bab"], 0)
@example(["abc", "d"], ["abcd", "bc"], 0)
@example(["a", "b", "c"], ["ab", "bc"], 2)
def test_it_gives_what_the_definition_gives_and_never_more(pieces, stops, min_pieces):
    checker, given_out = StopChecker(stops), ""
    earliest_end = len("".join(pieces[:min_pieces]))
    expected, stop = by_definition("".join(pieces), stops, earliest_end)
    for i, piece in enumerate(pieces):
        given_out += checker.push(piece, may_stop=i >= min_pieces)
        assert expected.startswith(given_out), "part of a stop string leaked"
    given_out += checker.finish()
    assert (given_out, checker.stop) == (expected, stop)


@given(st.text(alphabet="ab", max_size=30), st.lists(letters, max_size=3), st.data())
def test_what_is_given_out_depends_on_the_text_alone(text, stops, data):
    """A stream that is taken over in the middle goes on where the first one was."""
    cut = data.draw(st.integers(0, len(text)))
    one_by_one, at_once = StopChecker(stops), StopChecker(stops)
    assert "".join(map(one_by_one.push, text[:cut])) == at_once.push(text[:cut])


def test_only_what_could_begin_a_stop_is_held():
    checker = StopChecker(["\n\nUser:", "</s>"])
    assert checker.push("Hello\n") == "Hello"
    assert checker.push("world") == "\nworld"
    assert checker.push(" a < b") == " a < b"
    assert checker.push("</") == ""
    assert checker.push("s>more") == ""
    assert checker.stop == "</s>"
    assert checker.push("more") == checker.finish() == ""


def test_without_stops_everything_passes():
    checker = StopChecker([])
    assert checker.push("anything") == "anything"
    assert checker.finish() == ""


def test_an_empty_stop_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        StopChecker(["a", ""])
