"""The agent as a unit of the user's own systemd: hardened, gentle to the machine, and gone with all its children."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

NAME = "gpu-worker.service"
DRAIN = 60
"""Seconds that a job may finish in when the unit is stopped; a machine that shuts down should not wait for long."""

_UNIT = """\
# Lends this machine's idle time to a grid. A unit of the user's own systemd: no administrator, no root.
#   systemctl --user enable --now gpu-worker     (`loginctl enable-linger` keeps it while nobody is logged in)
[Unit]
Description=gpu-worker: lends this machine's idle time to a grid
After=network-online.target
# Not before this machine joined a grid: gpu-worker join URL TOKEN
ConditionPathExists={credentials}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
{environment}# Who told it to drain has it ended (exit code 0); whatever else ends it, it is started again.
Restart=always
RestartPreventExitStatus=0
RestartSec=5
# SIGTERM to the agent alone, which lets its worker finish; then no process of it is left, whatever it did.
KillMode=mixed
TimeoutStopSec={patience}
OOMPolicy=continue

# Gentle: other programs come first.
Nice=10
CPUWeight=20
IOWeight=20
MemoryMax=80%
TasksMax=4096

# Shut in: it can write where it keeps its own files and the models, and nowhere else.
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
RuntimeDirectory=idlegrid
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
PrivateTmp={private_tmp}
UMask=0077
CapabilityBoundingSet=
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
# Decoders of strangers' files shut themselves into an empty network.
RestrictNamespaces=user net
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
LockPersonality=yes
SystemCallArchitectures=native
# Not set: PrivateDevices hides the GPU, MemoryDenyWriteExecute forbids what torch compiles, ProtectProc hides the
# other programs on the GPU, for which this one makes room.

[Install]
WantedBy=default.target
"""

USUAL_COMMAND = ("%h/.local/bin/gpu-worker", "start", "--drain-timeout", str(DRAIN))
"""Where pipx and `pip install --user` put it."""
USUAL_CREDENTIALS = "%h/.local/state/idlegrid/agent/credentials.json"
USUAL_PLACES = ("-%h/.config/idlegrid", "-%h/.local/state/idlegrid", "-%h/.local/share/idlegrid", "-%h/.cache")
"""Its files, and the caches of the models. A minus: it need not be there."""


def unit_text(
    command: Iterable[str] = USUAL_COMMAND,
    *,
    credentials: str = USUAL_CREDENTIALS,
    writable: Iterable[str] = USUAL_PLACES,
    environment: Mapping[str, str] | None = None,
    private_tmp: bool = True,
) -> str:
    """The unit. Words of `command` and paths are systemd's: ``%h`` is the user's home, a path of ours is `escaped`.

    `private_tmp`: it has a /tmp of its own; not where the agent's sockets must lie in the common one.
    """
    variables = "".join(
        f"Environment={_quoted(f'{name}={escaped(text)}')}\n" for name, text in (environment or {}).items()
    )
    return _UNIT.format(
        command=" ".join(_quoted(word) for word in command),
        environment=variables,
        credentials=credentials,
        patience=DRAIN + 30,
        writable=" ".join(_quoted(path) for path in writable),
        private_tmp="yes" if private_tmp else "no",
    )


def escaped(text: str) -> str:
    """`text` as it is, for a place where systemd would look for ``%h`` and for variables.

    Raises ValueError on what a unit file can't hold.
    """
    if any(ord(letter) < 32 for letter in text):
        raise ValueError(f"{text!r} has a line break or another control character: a unit file can't name it")
    return text.replace("%", "%%").replace("$", "$$")


def _quoted(word: str) -> str:
    if word and not any(letter in word for letter in " \t\"'\\;"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
