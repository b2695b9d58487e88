"""What a scheduler says is what an operator can do something with."""

import logging

import pytest
from distributed import Scheduler

from idlegrid.api.scheduling import _is_news


@pytest.fixture
def heard(caplog):
    logger = logging.getLogger("distributed.scheduler")
    logger.addFilter(_is_news)
    with caplog.at_level(logging.WARNING, logger.name):
        yield caplog
    logger.removeFilter(_is_news)


async def test_a_last_heartbeat_of_a_worker_that_has_left_is_no_news(heard):
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        answer = scheduler.heartbeat_worker(address="tcp://127.0.0.1:1", metrics={})
        assert answer == {"status": "missing"}
    assert not heard.records
    logging.getLogger("distributed.scheduler").warning("something else")
    assert [record.message for record in heard.records] == ["something else"]
