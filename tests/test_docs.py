"""Documents cannot rot: generated ones are up to date, commands and code in the others are what there is."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from idlegrid.api.cli.documentation import all_commands

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = dict(all_commands())
GROUPS = {" ".join(words.split()[:-1]) for words in COMMANDS if " " in words}


def blocks(page):
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def command_lines():
    for page in PAGES:
        for language, text in blocks(page):
            if language in ("", "console", "sh", "bash"):
                for line in text.splitlines():
                    if found := re.match(r"(?:\$ )?(?:\.venv/bin/)?(idlegrid|gpu-worker) +([^#]*)", line):
                        yield page.name, found[1], found[2].strip()


def python_blocks():
    for page in PAGES:
        for number, (language, text) in enumerate(blocks(page)):
            if language == "python":
                yield pytest.param(text, id=f"{page.name}-{number}")


def test_generated_documents_are_up_to_date():
    command = [sys.executable, ROOT / "scripts/generate-docs", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_command_is_in_the_page():
    page = (ROOT / "docs/cli.md").read_text()
    for words in COMMANDS:
        assert f"## `idlegrid {words}`".replace(" `", "`") in page.replace(" `", "`")


@pytest.mark.parametrize(("page", "program", "line"), list(command_lines()))
def test_every_command_line_can_be_typed(page, program, line):
    words = (["worker"] if program == "gpu-worker" else []) + shlex.split(line)
    name = next(name for count in (3, 2, 1, 0) if (name := " ".join(words[:count])) in COMMANDS)
    assert name or words == ["--help"], f"{page}: {program} {line}"
    assert name not in GROUPS or words[-1] == "--help", f"{page}: {program} {line}"
    assert name in COMMANDS, f"{page}: {program} {line}"
    known = {option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert used <= known | {"-h", "--help"}, f"{page}: {program} {line}"


@pytest.mark.parametrize("text", list(python_blocks()))
def test_python_is_python_and_its_imports_are_there(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("idlegrid"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module}.{name.name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_grid(node.func.value):
            from idlegrid.api import Grid

            assert hasattr(Grid, node.func.attr), f"Grid.{node.func.attr}"


def _is_grid(node):
    return isinstance(node, ast.Name) and node.id == "grid"


def anchors(page):
    """The names under which a page's headings are linked, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    for page in [*PAGES, *sorted(ROOT.glob("docs/*/*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            if "://" not in target:
                there = page.parent / target if target else page
                assert there.exists(), f"{page.name}: {target}"
                assert not heading or heading in anchors(there), f"{page.name}: {target}#{heading}"
