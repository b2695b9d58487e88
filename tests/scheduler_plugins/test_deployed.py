"""Deployed models on the scheduler: told by those who serve them, forgotten when they fall silent, drawn as a strip."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from small_cluster import cluster, donor

from idlegrid.grid.deployments import DeploymentReport, DeploymentState, HeldLayers
from idlegrid.scheduler_plugins.deployed import FRESH, Deployed
from idlegrid.scheduler_plugins.page import GridPage
from idlegrid.scheduler_plugins.page_strip import MOST_MARKS, NOBODY, PHASES, strips
from idlegrid.scheduler_plugins.state import grid_state

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def told(model="m", *coverage, layers=6, why=""):
    report = DeploymentReport(
        state=DeploymentState.PARTIAL, ready=1, why=why, num_layers=layers, coverage=tuple(coverage)
    )
    return {"model": model, "replicas": 2, **report.to_wire()}


def drawn(*deployments):
    seen = Deployed()
    seen.tell("p", deployments, NOW)
    return strips({"workers": [{"id": "a", "name": "attic"}], "deployments": seen.now(NOW)})


def test_what_a_process_said_last_counts_while_it_is_fresh():
    seen = Deployed()
    seen.tell("p", [told("b"), told("a")], NOW)
    seen.tell("q", [told("c")], NOW + FRESH / 2)
    assert [one["model"] for one in seen.now(NOW + FRESH / 2)] == ["a", "b", "c"]
    assert [one["model"] for one in seen.now(NOW + FRESH + timedelta(seconds=1))] == ["c"], "p fell silent"
    seen.tell("q", [], NOW + FRESH)
    assert seen.now(NOW + FRESH) == []


def test_a_document_says_who_holds_what_and_what_misses():
    seen = Deployed()
    seen.tell("p", [told("m", HeldLayers("a", 0, 4, "ready", 1), HeldLayers("b", 4, 6, "loading", 1))], NOW)
    [one] = seen.now(NOW)
    assert (one["ready"], one["replicas"], one["num_layers"], one["missing"]) == (1, 2, 6, [[4, 6]])
    assert [row["donor_id"] for row in one["strip"]] == ["a", "b"]
    assert one["strip"][1]["phases"] == ("", "", "", "", "loading", "loading")


@pytest.mark.parametrize("wrong", [{}, {"model": "m"}, {"model": "m", "replicas": 1, "state": "odd"}])
def test_what_can_not_be_shown_is_refused(wrong):
    with pytest.raises((KeyError, ValueError)):
        Deployed().tell("p", [wrong], NOW)


def test_a_strip_has_a_mark_for_each_block_of_each_worker():
    html = drawn(told("m", HeldLayers("a", 0, 4, "ready", 1), HeldLayers("b", 4, 6, "loading", 1)))
    row = html.split("attic")[1].split("b</span>")[0]
    assert (row.count(PHASES["ready"]), row.count("height:12px")) == (4, 6)
    assert html.count(PHASES["loading"]) == 2 + 1, "and the legend"
    assert html.count(NOBODY) == 1 + 1 + 2, "the legend, the words and two blocks"
    assert "1 of 2 replicas serve" in html


def test_names_and_reasons_are_text():
    html = drawn(told("<i>m", HeldLayers("<b>x", 0, 6, "ready", 1), why="<script>"))
    assert "<b>x" not in html
    assert "<i>m" not in html
    assert "<script>" not in html
    assert strips({"workers": [], "deployments": []}) == "", "nothing is deployed, nothing is drawn"


@pytest.mark.parametrize("layers", [1, 6, 28, 80, 126])
def test_not_every_block_has_a_number(layers):
    html = drawn(told("m", HeldLayers("a", 0, layers, "ready", 1), layers=layers))
    numbers = html.split("block</span>")[1].split("attic")[0].count(">0<")
    assert numbers == 1
    shown = sum(f'nowrap">{layer}<' in html for layer in range(layers))
    assert 1 <= shown <= MOST_MARKS


def test_a_model_whose_blocks_nobody_knows_yet():
    html = drawn(told("m", HeldLayers("", 0, 0, "placing", 1), layers=None))
    assert "a worker is looked for" in html


async def test_the_scheduler_is_told_and_shows_it():
    async with cluster(donor("a")) as c:
        page = GridPage(c.scheduler)
        page.update()
        assert not page.strips.visible
        say = c.client.scheduler.grid_deployed
        await say(holder="p", deployments=[told("m", HeldLayers("a", 0, 6, "ready", 1))])
        page.update()
        assert page.strips.visible
        assert "1 of 2 replicas serve" in page.strips.text
        assert grid_state(c.scheduler.grid)["deployments"][0]["model"] == "m"
        await say(holder="p", deployments=[])
        page.update()
        assert not page.strips.visible
