"""The language models that a `Grid` serves itself, as a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from ..pipelines.llm.service import Served
from .desired import report_of
from .strip import LEGEND, SPEEDS, lines_of


class Deployed:
    """What is served now: iterate over it, or look at it. A later look is another one of these."""

    def __init__(self, models: Iterable[Served]) -> None:
        self._models = tuple(models)

    def __iter__(self) -> Iterator[Served]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __getitem__(self, model: str) -> Served:
        """The model of this name or alias. Raises KeyError."""
        for one in self._models:
            if model in (one.id, *one.aliases):
                return one
        raise KeyError(model)

    def __repr__(self) -> str:
        if not self._models:
            return "nothing is deployed"
        lines = [line for one in self._models for line in _lines(one)]
        speeds = any(held.layer_seconds is not None for one in self._models for held in one.coverage)
        return "\n".join([*lines, "", LEGEND, *([SPEEDS] if speeds else [])])

    def _repr_html_(self) -> str:
        return f'<pre style="line-height:1.2">{escape(repr(self))}</pre>'


def _lines(served: Served) -> list[str]:
    why = [f"  {served.why}"] if served.why else []
    head = f"{served.id}: {served.ready} of {served.replicas} replicas serve"
    return [head, *why, *lines_of(report_of(served, 0).coverage, served.num_layers)]
