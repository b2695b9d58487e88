"""What all commands have in common: help, exit codes, errors."""

from __future__ import annotations

import functools
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from typer.main import get_command

from idlegrid.api.cli import app as module
from idlegrid.api.cli.app import app
from idlegrid.api.cli.documentation import all_commands
from idlegrid.grid.catalogue import UnknownModel
from idlegrid.grid.config import ConfigError, Problem
from idlegrid.grid.regions import UnknownRegionError
from idlegrid.pipelines.bulk import TargetError

COMMANDS = [words for words, _ in all_commands()]


def test_every_command_has_help(idlegrid, monkeypatch):
    monkeypatch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))  # 60 times the same tree
    assert {"up", "scheduler", "api", "embed", "models", "status", "doctor", "worker start", "config show"} < set(
        COMMANDS
    )
    for words in COMMANDS:
        done = idlegrid(*words.split(), "--help")
        assert (done.code, done.err) == (0, "")
        assert f"Usage: idlegrid {words}".strip() in done.out


def test_every_option_says_what_it_is_for():
    for words, command in all_commands():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{words} {parameter.name}"


def test_the_list_of_commands_is_not_cut_off(idlegrid):
    assert "..." not in idlegrid("--help").out.partition("Commands:")[2]


def test_the_version(idlegrid):
    assert idlegrid("--version").out == f"idlegrid {version('idlegrid')}\n"


@pytest.mark.parametrize(
    "words", [("statu",), ("models", "--typ", "llm"), ("embed", "a", "b"), ("up", "--workers", "0")]
)
def test_wrong_usage_ends_with_2(idlegrid, words):
    done = idlegrid(*words)
    assert done.code == 2
    assert "Error" in done.err
    assert done.out == ""


def test_a_slip_is_answered_with_the_nearest_word(idlegrid):
    assert "'status'" in idlegrid("statu").err
    assert "--type" in idlegrid("models", "--typ", "llm").err


@pytest.mark.parametrize(
    "error",
    [
        TargetError("[b]the folder[/b] is another job's"),
        ConfigError([Problem("region", "", "is not allowed")]),
        ConnectionError("nobody answers"),
        UnknownModel("'x' is not in the catalogue."),
        UnknownRegionError("oceana"),
    ],
)
def test_an_expected_error_is_one_line_and_1(error, capsys):
    def fail():
        raise error

    broken = typer.Typer()
    broken.command()(fail)
    with pytest.raises(SystemExit) as end:
        module._run(lambda: get_command(broken).main([], standalone_mode=True))
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_defect_keeps_its_traceback():
    def fail():
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        module._run(fail)


def test_ctrl_c_ends_with_130():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        module._run(interrupted)
    assert end.value.code == 130


def test_help_does_not_wait_for_the_heavy_libraries():
    code = "import sys, idlegrid.api.cli.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert {"torch", "dask", "distributed", "pyarrow", "fastapi"}.isdisjoint(done.stdout.split())


def test_a_donor_s_own_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu-worker", "start", "--help"])
    with pytest.raises(SystemExit) as end:
        module.worker_main()
    assert end.value.code == 0
    assert "gpu-worker start" in capsys.readouterr().out


def test_the_root_is_named(idlegrid):
    assert get_command(app).name == "idlegrid"
