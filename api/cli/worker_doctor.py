"""`gpu-worker doctor`: what can keep this machine from working in its grid."""

from __future__ import annotations

import typer

from .doctor import show
from .options import ConfigFile
from .output import Json
from .worker_options import HomeFolder, home_of


def doctor(config: ConfigFile = None, home: HomeFolder = None, as_json: Json = False) -> None:
    """Check this machine as a worker of its grid.

    Python, driver, disk, configuration, models, clock, reachability of the grid, token, time zone. Exits with 1 when
    something keeps it from working; notes are fine.
    """
    from ...grid.config import ConfigError, load_settings
    from ..doctor import examine_machine
    from ..donor.doctor import config_of, examine_donor

    place = home_of(home)
    file = config_of(place, config)
    findings = list(examine_machine(file))
    try:
        values = load_settings(file).settings
    except ConfigError:
        pass  # told already
    else:
        findings += examine_donor(place, values)
    if show(findings, as_json=as_json):
        raise typer.Exit(1)
