"""In a process of its own: what is frozen stays so."""

import subprocess
import sys

SCRIPT = """
import gc, sys, weakref
from idlegrid.actors.pauses import TURN, keep_pauses_short

class Ring:
    def __init__(self):
        self.me = self

keep_pauses_short()
frozen = gc.get_freeze_count()
assert frozen > 1_000, frozen
assert abs(sys.getswitchinterval() - TURN) < 1e-6
ring = Ring()
gone = weakref.ref(ring)
keep_pauses_short()
assert gc.get_freeze_count() <= frozen, "a second call froze what came meanwhile"
del ring
gc.collect()
assert gone() is None, "what came later is not collected"
"""


def test_what_is_there_is_left_alone_and_what_comes_later_is_collected():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
