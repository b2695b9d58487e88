"""How long a round trip takes, by the pings of a link that is open."""

import asyncio
import uuid

from idlegrid.actors.shards.inlet import Inlet
from idlegrid.actors.shards.leg import Leg, Pace
from idlegrid.actors.shards.link import Link
from idlegrid.actors.shards.round_trips import LATELY, RoundTrips

PACE = Pace(beat=0.01, silence=60.0, connect=20.0, patience=20.0)


def test_the_quickest_lately():
    trips = RoundTrips()
    assert trips.seconds is None
    for seconds in (0.020, 0.300, 0.021):
        trips.heard(seconds)
    assert trips.seconds == 0.020
    for _ in range(LATELY):
        trips.heard(0.150)
    assert trips.seconds == 0.150, "the way there has become longer"


class Noted(RoundTrips):
    """Says when it has heard."""

    def __init__(self):
        super().__init__()
        self.pong = asyncio.Event()

    def heard(self, seconds):
        super().heard(seconds)
        self.pong.set()


async def test_a_link_that_is_open_knows_and_its_steps_change_nothing():
    """A step that is taken is a word, too, but no answer to a ping."""
    inlet = await Inlet.open(pace=PACE)
    leg = Leg(chain=uuid.uuid4().bytes, epoch=1)
    inlet.admit(leg.chain, epoch=1)
    link = await Link.open(inlet.door, leg, pace=PACE)
    link.round_trips = noted = Noted()
    try:
        async with asyncio.timeout(60):
            for step in range(40):
                await link.send(step, within=30)
                assert (await inlet.receive(30)).step == step
            await noted.pong.wait()
        assert 0 < link.round_trips.seconds < 60
    finally:
        await link.close()
        await inlet.close()
