from idlegrid.pipelines.bulk.attempts import (
    FAILURES_ALLOWED,
    KILLED,
    KILLERS_ALLOWED,
    SEARCHES_ALLOWED,
    Attempts,
)
from idlegrid.pipelines.bulk.cutting import Span

SPAN = Span(0, 100, 116, 1.0)


def test_one_death_is_only_tried_again_elsewhere():
    state = Attempts(SPAN).after_death("tcp://a")
    assert (state.search, state.given_up, state.away_from) == (None, None, frozenset({"tcp://a"}))


def test_the_second_death_starts_a_search_which_names_the_row():
    state = Attempts(SPAN).after_death().after_death()
    runs = 0
    while state.search is not None:
        start, stop = state.search.probe
        state = state.after_death() if start <= 107 < stop else state.after_probe()
        runs += 1
    assert dict(state.killed) == {107: KILLED}
    assert runs <= 2 * 4
    assert state.given_up is None
    assert state.after_death().search is None, "the deaths before the search are forgiven"


def test_searches_that_find_nothing_end():
    state = Attempts(SPAN)
    for _ in range(SEARCHES_ALLOWED):
        assert state.given_up is None
        state = state.after_death().after_death()
        while state.search is not None:
            state = state.after_probe()
    assert "no single row" in state.given_up
    assert not state.killed


def test_too_many_killers_end_it():
    state = Attempts(Span(0, 0, 100, 1.0))
    for row in range(KILLERS_ALLOWED + 1):
        assert state.given_up is None
        state = state.after_death().after_death()
        while state.search is not None:
            start, stop = state.search.probe
            state = state.after_death() if start <= row < stop else state.after_probe()
    assert f"more than {KILLERS_ALLOWED}" in state.given_up


def test_failures_are_tried_elsewhere_a_few_times():
    state = Attempts(SPAN)
    for attempt in range(FAILURES_ALLOWED):
        assert state.given_up is None
        state = state.after_failure(f"no space {attempt}", "tcp://a", final=False)
    assert state.given_up == f"no space {FAILURES_ALLOWED - 1}"


def test_a_final_failure_is_final():
    assert Attempts(SPAN).after_failure("no such column", final=True).given_up == "no such column"
