"""The page /grid in a real browser: what happens in the grid is seen without a reload, in the table too."""

from __future__ import annotations

import pytest
from browser import browser
from small_cluster import cluster, donor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
WEB = {"protocol": "tcp", "host": "127.0.0.1", "dashboard": True, "dashboard_address": "127.0.0.1:0"}
WORDS = """(() => {
  const text = (node) => [...node.childNodes].map((one) =>
    one.nodeType === 3 ? one.data : one.shadowRoot ? text(one.shadowRoot) + text(one) : text(one)).join(' ');
  return text(document.body);
})()"""


async def test_the_table_changes_as_the_grid_does():
    async with (
        cluster(donor("near", region="europe-west"), donor("far", region="oceania"), **WEB) as c,
        browser() as tab,
    ):
        await tab.go(f"http://127.0.0.1:{c.scheduler.http_server.port}/grid")
        await tab.until(f"{WORDS}.includes('europe-west') && {WORDS}.includes('oceania')")
        assert "paused by its owner" not in await tab.script(WORDS)
        c.plugin("far").pause()
        await tab.until(f"{WORDS}.includes('paused by its owner')")
