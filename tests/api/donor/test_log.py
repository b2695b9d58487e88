"""The agent's log: bounded in memory and on disk, for its owner's eyes."""

from __future__ import annotations

import logging
import stat

from idlegrid.api.donor import log
from idlegrid.api.donor.log import LogRing, logging_to


def test_lines_in_memory_and_in_the_file(tmp_path):
    ring, path = LogRing(size=3), tmp_path / "agent.log"
    with logging_to(path, ring, shown=False):
        for number in range(5):
            logging.getLogger("idlegrid.test").info("line %d", number)
        logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("idlegrid.test").warning("after")
    assert [(line.number, line.text) for line in ring.lines()] == [(3, "line 2"), (4, "line 3"), (5, "line 4")]
    assert [line.text for line in ring.lines(after=4)] == ["line 4"]
    assert [line.text for line in ring.lines(limit=1)] == ["line 4"]
    assert ring.lines(limit=0) == []
    assert len(path.read_text().splitlines()) == 5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_files_don_t_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "FILE_BYTES", 1000)
    with logging_to(tmp_path / "agent.log", LogRing(), shown=False):
        for _ in range(200):
            logging.getLogger("idlegrid.test").info("x" * 50)
    files = list(tmp_path.iterdir())
    assert len(files) == 1 + log.OLD_FILES
    assert all(path.stat().st_size <= 1100 and stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
