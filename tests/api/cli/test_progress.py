"""How far a job is: the words, and what goes to a log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from idlegrid.api.cli import progress
from idlegrid.api.cli.progress import Notices, clock, counted, numbers, shown
from idlegrid.pipelines.bulk import Progress
from idlegrid.pipelines.bulk.pulse import Pulse


def look(**other):
    fields = {
        "rows": 3072,
        "rows_total": 12_000,
        "errors": 1,
        "units": 3,
        "units_total": 12,
        "rows_per_second": 1839.6,
        "eta_seconds": 4.9,
        "workers": 4,
    }
    return Progress(**fields | other)


def test_numbers():
    assert numbers(look()) == "3,072/12,000 rows · 1,840 rows/s · 1 error · 4 workers · 0:05 left"
    assert numbers(look(eta_seconds=None, workers=1, errors=0)).endswith("0 errors · 1 worker")


def test_rows_that_take_minutes_show_their_steps():
    slow = look(rows=0, rows_total=3, rows_per_second=0, eta_seconds=None, errors=0, workers=1)
    assert numbers(replace(slow, under_way=(Pulse(0, 12, 50),))) == "0/3 rows (step 12/50) · 0 errors · 1 worker"
    under_way = (Pulse(1, 12, 50), Pulse(2, 3, 50))
    assert numbers(replace(slow, under_way=under_way)).startswith("0/3 rows (3 more, step 12/50, 3/50) · ")
    assert numbers(replace(slow, under_way=(Pulse(0, 1, 9),) * 5)).startswith("0/3 rows (step 1/9, 1/9, 1/9, 1/9, …)")
    assert " · 0.5 rows/min · " in numbers(replace(slow, rows_per_second=1 / 120))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (7325, "2:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_counted():
    assert [counted(number, "row") for number in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]


def test_the_same_notice_with_another_number_is_no_news():
    notices = Notices()
    said = ["waiting (1 s)", "waiting (2 s)", "", "a worker died", "waiting (3 s)"]
    assert [text for text in said if notices.new(text)] == ["waiting (1 s)", "a worker died", "waiting (3 s)"]


def test_in_a_log_a_line_comes_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with shown() as listen:
        for second in range(25):
            now[0] = float(second)
            listen(look(rows=second, notice="a worker died" if second == 3 else ""))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a worker died"
    assert [line.split("/")[0] for line in lines[1:]] == ["10", "20"]
