"""docs/structure.md has a line for every module and none for one that is gone; every package says what it is."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("grid", "scheduler_plugins", "actors", "pipelines", "api")
MODULES = sorted(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)


def test_every_module_has_a_line():
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", (ROOT / "docs/structure.md").read_text(), flags=re.MULTILINE))
    assert sorted(named) == MODULES


@pytest.mark.parametrize("path", MODULES)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse((ROOT / path).read_text()))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_package_says_what_it_is(folder):
    for path in (ROOT / folder).rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_file_is_far_over_its_bound():
    long = {path: count for path in MODULES if (count := len((ROOT / path).read_text().splitlines())) > 450}
    assert not long
