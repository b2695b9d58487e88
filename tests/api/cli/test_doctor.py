from types import SimpleNamespace

import psutil


def test_findings_as_a_table_and_as_json(idlegrid):
    done = idlegrid("doctor")
    rows = idlegrid("doctor", "--json").json
    for row in rows:
        assert row["check"] in done.out
        assert row["health"] in ("ok", "note", "problem")
    assert done.code == any(row["health"] == "problem" for row in rows)


def test_a_problem_ends_with_1(idlegrid, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9, total=8e9))
    done = idlegrid("doctor")
    assert done.code == 1
    assert "close something" in done.out
