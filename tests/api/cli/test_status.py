import pytest


def test_an_address_that_can_be_none(idlegrid):
    done = idlegrid("status", "--scheduler", "nowhere")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: 'nowhere' is not the address of a scheduler")


@pytest.mark.slow
def test_the_workers_of_a_grid(idlegrid, grid):
    done = idlegrid("status", "-s", grid.address)
    assert done.code == 0
    for words in ("local-0  europe-west", "local-1  asia-east", "running: nothing", "waiting: nothing", "/grid"):
        assert words in done.out


@pytest.mark.slow
def test_as_json_and_with_a_configured_address(idlegrid, grid, monkeypatch):
    monkeypatch.setenv("IDLEGRID_SCHEDULER_ADDRESS", grid.address)
    state = idlegrid("status", "--json").json
    assert state["version"] == 1
    assert state["page"] == grid.dashboard_link
    assert [row["name"] for row in state["workers"]] == ["local-1", "local-0"]


@pytest.mark.slow
def test_why_a_worker_takes_nothing(idlegrid, grid):
    try:
        grid.control("local-1", "pause")
        done = idlegrid("status", "-s", grid.address)
    finally:
        grid.control("local-1", "resume")
    assert "paused by its owner" in done.out
