"""Direct mode in a worker process: its places are those of the desk, where all other work is counted too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from ...grid.config import Settings, load_settings
from ...grid.config.problems import ConfigError
from ...grid.credentials import BadCredentials, Signer
from ...grid.donors import Donor
from ...grid.jobs import Ask
from ...grid.verdicts import Verdict
from ...pipelines.dispatch.desk import Desk
from ...pipelines.dispatch.slots import SlotGuard
from ...pipelines.dispatch.spool import default_folder
from .direct_work import CannotListen, NoPlace


class DeskPlaces:
    """See `direct_work.Places`."""

    def __init__(self, desk: Desk, slots: SlotGuard, told: Callable[[int], None] = lambda count: None) -> None:
        """`told`: hears how many slots direct work holds, whenever that changes."""
        self._desk, self._slots, self._told = desk, slots, told

    @property
    def donor(self) -> Donor:
        return self._slots.donor

    def standing(self) -> Verdict:
        return self._slots.standing()

    def take(self, ask: Ask, name: str, stop: Callable[[str], None]) -> Callable[[str], None]:
        verdict = self._desk.admit(name, ask, stop)
        if not verdict:
            raise NoPlace(verdict)
        self._told(self._desk.guests)
        return partial(self._leave, name)

    def _leave(self, name: str, outcome: str) -> None:
        self._desk.dismiss(name, outcome)
        self._told(self._desk.guests)


def open_direct(desk: Desk, slots: SlotGuard, told: Callable[[int], None] = lambda count: None) -> None:
    """Open the endpoint of this worker process for as long as it lives, if its owner offers direct mode.

    A worker without its endpoint is still a worker: what keeps it closed is said on standard error. May block.
    """
    try:
        settings = load_settings().settings
        if settings.direct.enabled:
            print(f"direct mode at {_opened(desk, DeskPlaces(desk, slots, told), settings)}", flush=True)
    except (CannotListen, ConfigError, BadCredentials, OSError, ImportError) as error:
        print(f"direct mode is closed: {error}", file=sys.stderr, flush=True)


def _opened(desk: Desk, places: DeskPlaces, settings: Settings) -> str:
    """Where it listens."""
    from .direct_server import serve_direct  # brings a web server, which other workers need not have

    signer = Signer.from_environment()
    if signer is None:
        raise CannotListen("it is for workers that joined a grid: gpu-worker join URL TOKEN")
    return serve_direct(places, lambda: signer.credentials, settings, default_folder(desk.who.worker_id)).url
