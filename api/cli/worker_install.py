"""`gpu-worker install` and `uninstall`: preparing a machine, and leaving nothing on it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .output import print_table, say, tell
from .worker_options import HomeFolder, Yes, home_of

if TYPE_CHECKING:
    from ..donor.leaving import Leftover
    from ..donor.state import Home

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
ENDS = 60.0
"""Seconds that an agent has to end when its files are to go."""


def register(worker_app: typer.Typer) -> None:
    """Add both commands."""
    worker_app.command("install")(install)
    worker_app.command("uninstall")(uninstall)


def install(
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Also write and enable a hardened unit of your own systemd.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeFolder = None,
) -> None:
    """Check this machine, and prepare what lending it needs.

    Looks at Python, disk, driver and GPU, installs the packages that are missing for them, and says every file that it
    writes. Exits with 1 when something keeps this machine from working.
    """
    from ..doctor import examine_machine
    from ..donor.installing import after_unit, folders_of_unit, unit_of, unit_path, write_unit
    from .doctor import show

    place = home_of(home)
    if show(list(examine_machine(place.config if place.config.is_file() else None)), as_json=False):
        raise typer.Exit(1)
    _packages(dry_run=dry_run, yes=yes)
    if not systemd:
        say("ready    gpu-worker join URL TOKEN")
        return
    if dry_run:
        for folder in folders_of_unit(place, os.environ):
            if not folder.exists():
                say(f"makes    {folder}")
        say(f"writes   {unit_path()}")
        say(unit_of(place, os.environ))
    else:
        written = write_unit(place, os.environ)
        for path in (*written.folders, *written.files):
            say(f"written  {path}")
    joined = place.credentials.exists()
    for command in after_unit(joined=joined):
        _run(command, dry_run=dry_run, must=False)
    if not joined:
        say("then     gpu-worker join URL TOKEN, end it, and: systemctl --user start gpu-worker")


def uninstall(
    models: Annotated[
        bool, typer.Option("--models", help="Also the models that it may have loaded; other programs may use them.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeFolder = None,
) -> None:
    """Stop the agent, tell the grid, and remove every file that it wrote.

    Configuration, credentials, state, spool, logs, unit: listed with their sizes before anything is done.
    """
    from ..donor.installing import Written
    from ..donor.leaving import UNIT, WRAPPED, leftovers, remove_empty

    place = home_of(home)
    found = leftovers(place, os.environ, models=models)
    if not found:
        say("nothing  there is nothing of an agent here")
        return
    _show(found)
    if dry_run:
        return
    if not yes:
        typer.confirm("Stop the agent and remove all of this?", abort=True)
    _stop(place, unit=any(one.what == UNIT for one in found))
    _say_goodbye(place)
    made = Written.load(place).folders
    now = leftovers(place, os.environ, models=models)  # anew: an agent that ended has written more
    program = [one for one in now if one.what == WRAPPED]
    failed = _remove([one for one in now if one.what != WRAPPED])
    for folder in remove_empty(place, os.environ, made):
        say(f"removed  {folder}")
    if any(one.what == UNIT for one in found):
        _run(("systemctl", "--user", "daemon-reload"), dry_run=False, must=False)
    if not program:
        say("stays    the program itself: pip uninstall idlegrid")
    failed += _remove(program)  # the last, since it is what runs here
    if failed:
        raise typer.Exit(1)


def _remove(found: Sequence[Leftover]) -> int:
    """Remove and tell; how many could not be."""
    from ..donor.leaving import remove

    failed = 0
    for one, why in remove(found):
        if why is None:
            say(f"removed  {one.path}")
        else:
            failed += 1
            tell(f"{one.path} stays: {why}", label="error:", style="bold red")
    return failed


def _packages(*, dry_run: bool, yes: bool) -> None:
    """Install what is missing for the GPU at hand, if anything is."""
    from ...scheduler_plugins.machine import visible_gpu
    from ..donor.installing import missing_packages, own_environment, pip_command, wanted_extras
    from ..ports import CannotStart

    gpu = visible_gpu()[0] is not None or shutil.which("nvidia-smi") is not None
    missing = {extra: names for extra in wanted_extras(gpu=gpu) if (names := missing_packages(extra))}
    if not missing:
        return
    for extra, names in missing.items():
        say(f"missing  {extra}: {', '.join(names)}")
    command = pip_command(missing, gpu=gpu, environ=os.environ)
    if not own_environment():
        told = "this Python belongs to the system: make an environment of your own (python3 -m venv ~/gpu-worker)"
        raise CannotStart(f"{told}, and install idlegrid there; or use `npx gpu-worker`")
    if not (dry_run or yes):
        typer.confirm(f"Run {shlex.join(command)}?", default=True, abort=True)
    _run(command, dry_run=dry_run, must=True)


def _run(command: Sequence[str], *, dry_run: bool, must: bool) -> None:
    """Run a command, told before. One that need not work is only told of when it does not."""
    from ..ports import CannotStart

    say(f"{'would run' if dry_run else 'runs    '} {shlex.join(command)}")
    if dry_run:
        return
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as error:
        code = error.errno or 1
    if code and must:
        raise CannotStart(f"{shlex.join(command)} failed ({code}); mend it, then `gpu-worker install` again")
    if code:
        tell(f"that failed ({code}): run it yourself when you are logged in", label="note:", style="yellow")


def _show(found: Sequence[Leftover]) -> None:
    print_table(
        ("what", "size", "path"), [(one.what, _sized(one.size), one.path) for one in found], whole=("what", "size")
    )
    say(f"together {_sized(sum(one.size for one in found))}")


def _sized(size: int) -> str:
    for unit, most in (("B", 1e3), ("kB", 1e6), ("MB", 1e9)):
        if size < most:
            return f"{size / (most / 1e3):.3g} {unit}"
    return f"{size / 1e9:.3g} GB"


def _stop(place: Home, *, unit: bool) -> None:
    """End the agent: what runs is handed back, so nothing is waited for. Raises CannotStart when it does not end."""
    from ..donor.control import Control, NotRunning
    from ..ports import CannotStart

    if unit:
        _run(("systemctl", "--user", "disable", "--now", "gpu-worker.service"), dry_run=False, must=False)
    control = Control(place.control_socket)
    try:
        pid = control.status()[0].pid
        control.pause(None)
        control.drain()
        say(f"stops    the agent (process {pid})")
        deadline = time.monotonic() + ENDS
        while time.monotonic() < deadline:
            control.status()
            time.sleep(0.2)
    except NotRunning:
        return
    raise CannotStart(f"the agent (process {pid}) does not end: stop it yourself (kill {pid}), then do this again")


def _say_goodbye(place: Home) -> None:
    """Tell the grid that this machine is gone, where it can be reached."""
    import asyncio

    from ...grid.credentials import BadCredentials
    from ..donor.leaving import goodbye

    if not place.credentials.exists():
        return
    try:
        server = asyncio.run(goodbye(place))
    except (BadCredentials, ConnectionError, OSError) as error:
        tell(
            f"the grid was not told ({error}); it notices by itself when no heartbeat comes",
            label="note:",
            style="yellow",
        )
    else:
        say(f"told     {server} that this machine has left")
