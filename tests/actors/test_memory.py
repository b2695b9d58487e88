import subprocess
import sys

import pytest

from idlegrid.actors import memory

PROGRAM = """
import os, resource, sys
os.environ.pop("PYTHONMALLOC", None)
from idlegrid.actors.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(8):
    bytearray(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    bytearray(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    """Page faults of 200 blocks of 8 MB, each freed at once, under the setting that Dask gives its workers."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        env={"MALLOC_TRIM_THRESHOLD_": "65536"},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has mallopt")
def test_a_freed_block_is_used_again_without_a_page_fault():
    assert faults("leave") > 100_000  # the control: every block's 2,000 pages are mapped anew
    assert faults("keep") < 10_000


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
