"""Real text that every machine has: the docstrings of Python's standard library, for the demo, tests and benchmarks."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_MIN_CHARS = 20


def docstrings(limit: int | None = None) -> list[tuple[str, str]]:
    """(name, docstring) of modules, classes and functions of the standard library, in a stable order, none twice.

    At most `limit`; Python 3.11 has about 8,000 of 20 characters or more.
    """
    return list(islice(_once(_docstrings()), limit))


def sentences(limit: int | None = None) -> list[tuple[str, str]]:
    """(name, sentence): the paragraphs of the docstrings, each once: about 14,000 shorter texts. At most `limit`."""
    return list(islice(_once(_paragraphs()), limit))


def write_parquet(path: Path, rows: list[tuple[str, str]], *, row_group_size: int = 4096) -> None:
    """A Parquet file with the columns `id` (int64), `name` and `text` (string)."""
    names, texts = zip(*rows, strict=True) if rows else ((), ())
    table = pa.table({"id": pa.array(range(len(rows)), pa.int64()), "name": list(names), "text": list(texts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size, compression="zstd", write_page_checksum=True)


def _once(texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for name, text in texts:
        if text not in seen:
            seen.add(text)
            yield name, text


def _paragraphs() -> Iterator[tuple[str, str]]:
    for name, text in _once(_docstrings()):
        for paragraph in text.split("\n\n"):
            flat = " ".join(paragraph.split())
            if len(flat) >= _MIN_CHARS:
                yield name, flat


def _docstrings() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        below = path.relative_to(root)
        if not _SKIPPED.intersection(below.parts):
            yield from _of_file(path, ".".join(below.with_suffix("").parts))


def _of_file(path: Path, module: str) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in the standard library's own sources
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= _MIN_CHARS:
                yield (module if isinstance(node, ast.Module) else f"{module}.{node.name}"), text
