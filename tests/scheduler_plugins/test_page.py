"""The page /grid and the route /grid-api, over HTTP and from a real scheduler's state."""

import json

import dask
from bokeh.document import Document
from distributed import Event, Scheduler
from small_cluster import annotation, cluster, donor, until
from small_tasks import hold
from tornado.httpclient import AsyncHTTPClient

from idlegrid.scheduler_plugins import page_html
from idlegrid.scheduler_plugins.page import GridPage, grid_doc
from idlegrid.scheduler_plugins.state import grid_state

WEB = {"protocol": "tcp", "host": "127.0.0.1", "dashboard": True, "dashboard_address": "127.0.0.1:0"}


async def get(c, path):
    return await AsyncHTTPClient().fetch(f"http://127.0.0.1:{c.scheduler.http_server.port}{path}")


async def test_page_route_and_navigation_are_served():
    async with cluster(donor("a"), **WEB) as c:
        page = (await get(c, "/grid")).body.decode()
        assert "data-root-id" in page, "a Bokeh document"
        assert '<a href="grid">Grid</a>' in page
        assert '<a href="grid">Grid</a>' in (await get(c, "/workers")).body.decode()
        answer = await get(c, "/grid-api")
        assert answer.headers["Content-Type"].startswith("application/json")
        assert [row["id"] for row in json.loads(answer.body)["workers"]] == ["a"]


async def test_both_are_served_under_a_prefix():
    async with cluster(donor("a"), http_prefix="/some/where", **WEB) as c:
        assert "data-root-id" in (await get(c, "/some/where/grid")).body.decode()
        assert json.loads((await get(c, "/some/where/grid-api")).body)["version"] == 1


async def test_the_page_shows_what_the_document_says():
    async with cluster(donor("near", region="europe-west"), donor("far", types=["llm"], region="oceania")) as c:
        doc = Document()
        grid_doc(c.scheduler, {}, doc)
        assert doc.title == "Dask: Grid"
        assert len(doc.roots) == 1
        page = GridPage(c.scheduler)
        c.plugin("far").pause()
        with dask.annotate(**annotation(region="europe-west")):
            futures = c.client.map(hold, ["page"] * 4, pure=False)
        await until(lambda: c.load("near").running == 1 and c.load("far").paused and len(c.scheduler.grid.lanes) == 3)
        page.update()
        assert page.source.data["region"] == ["europe-west", "oceania"]
        assert ["busy" in page.source.data["state"][0], "paused by its owner" in page.source.data["reason"][1]] == [
            True,
            True,
        ]
        assert page.source.data["terms"][0].count("<span title=") == 4
        assert page.work.source.data["words"] == ["1 running, 3 waiting"]
        assert page.regions.source.data["words"] == ["", "1 running, 3 waiting"]
        assert "4" in page.tiles.text
        doc.validate()
        await Event("page", client=c.client).set()
        await c.client.gather(futures)


async def test_nobody_here_a_stock_scheduler_and_a_failed_rule():
    async with cluster() as c:
        page = GridPage(c.scheduler)
        page.update()
        assert "No workers yet" in page.note.text
        assert not page.table.visible
        c.scheduler.grid.placer.failed(ValueError("<b>broken</b>"))
        page.update()
        assert "&lt;b&gt;broken" in page.note.text
    async with cluster(cls=Scheduler) as c:
        page = GridPage(c.scheduler)
        page.update()
        assert "without the grid&#x27;s rules" in page.tiles.text


async def test_what_a_donor_says_is_shown_as_text():
    evil = "<script>alert(1)</script>"
    async with cluster(donor(evil, gpu_model=evil, gpu_memory_gb=8.0)) as c:
        c.plugin(evil).loaded(evil)
        await until(lambda: c.load(evil).loaded)
        cells = page_html.table(grid_state(c.scheduler.grid)["workers"])
        assert "<script" not in json.dumps(cells)
        assert "&lt;script&gt;" in json.dumps(cells)


async def test_two_hundred_workers_fit_on_the_page():
    async with cluster(donor("a")) as c:
        state = grid_state(c.scheduler.grid)
        (row,) = state["workers"]
        state["workers"] = [{**row, "id": f"d{n}", "name": f"d{n}"} for n in range(200)]
        page = GridPage(c.scheduler)
        page.show(state)
        assert len(page.source.data["name"]) == 200
        assert page.table.height == 560
