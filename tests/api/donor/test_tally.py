"""What was begun is counted once, also over restarts: else the hourly cap would begin anew with each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from idlegrid.api.donor import tally
from idlegrid.api.donor.face import JobLine
from idlegrid.api.donor.orders import OrderDesk
from idlegrid.api.donor.reports import Reports, line_to_wire
from idlegrid.api.donor.state import write_private
from idlegrid.api.donor.tally import Tally

NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)


def line(name, minutes):
    return JobLine(name, "trial", NOON - timedelta(minutes=minutes))


def test_each_start_counts_once_and_outlives_a_restart(tmp_path):
    path = tmp_path / "starts.jsonl"
    first = Tally(path)
    for _ in range(3):
        first.heard([line("a", 90), line("b", 30)], NOON)
    again = Tally(path)
    again.heard([line("b", 30), line("c", 1)], NOON)
    assert (again.last_hour(NOON), again.today(NOON, "UTC")) == (2, 3)
    assert path.read_text().count("\n") == 3
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_a_day_old_goes_and_a_torn_line_costs_itself_alone(tmp_path):
    path = tmp_path / "starts.jsonl"
    Tally(path).heard([line("a", 0)], NOON)
    with path.open("a") as file:
        file.write('["b", "2026-09\n[1]\n')
    later = Tally(path)
    assert later.last_hour(NOON) == 1
    later.heard([JobLine("c", "trial", NOON + timedelta(hours=25))], NOON + timedelta(hours=25))
    assert [job_id for job_id, _ in later.starts] == ["c"]


def test_days_of_work_cost_neither_memory_nor_a_new_file_each_time(tmp_path, monkeypatch):
    path, written = tmp_path / "starts.jsonl", []

    def counted(place, text):
        written.append(text.count("\n"))
        write_private(place, text)

    monkeypatch.setattr(tally, "write_private", counted)
    monkeypatch.setattr(tally, "STALE", 10)
    monkeypatch.setattr(tally, "MOST", 100)
    counts = Tally(path)
    for hour in range(200):
        now = NOON + timedelta(hours=hour)
        counts.heard([JobLine(f"{hour}", "trial", now)], now)
    assert len(counts.starts) == 24
    assert len(written) < 200 / 20
    assert path.read_text().count("\n") <= 24 + 25 + 1
    counts.heard([JobLine(f"many-{n}", "trial", now) for n in range(500)], now)
    assert (len(counts.starts), counts.last_hour(now)) == (100, 100)


def test_today_begins_at_the_owners_midnight():
    counts = Tally()
    counts.heard([line("a", 0), line("b", 60 * 11), line("c", 60 * 13)], NOON)
    zones = {"UTC": 2, "Europe/Berlin": 3, "America/New_York": 1}
    assert {zone: counts.today(NOON, zone) for zone in zones} == zones


def test_reports_forget_starts_while_one_process_runs_for_days():
    reports = Reports()
    for second in range(0, 20_000, 5):
        at = NOON + timedelta(seconds=second)
        reports.heard({"running": [line_to_wire(JobLine(f"{second}", "trial", at))]})
    assert len(reports._starts) < 3000
    assert len(reports.starts((NOON + timedelta(seconds=19_995)).timestamp())) == 3600 / 5


def test_a_disk_that_is_full_stops_no_work(tmp_path, caplog):
    counts = Tally(tmp_path / "nowhere" / "starts.jsonl")
    counts.heard([line("a", 1)], NOON)
    assert counts.last_hour(NOON) == 1
    assert "a restart forgets" in caplog.text


def test_the_first_process_of_a_new_agent_counts_on(tmp_path):
    reports = Reports()
    reports.remember({("a", NOON), ("b", NOON - timedelta(hours=2))})
    reports.heard({"running": [line_to_wire(line("a", 0)), line_to_wire(line("c", 0))]})
    assert reports.starts(NOON.timestamp() + 1) == [NOON.timestamp()] * 2, "a is the one that was remembered"
    OrderDesk(tmp_path / "orders.sock").remember({("a", NOON)})
