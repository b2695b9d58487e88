"""`Grid`: the grid from Python. Starts one on this machine or connects to one; everything is a Dask future."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, Self

import dask
from distributed import Client, Future, SpecCluster

from ..actors.tasks import embed_inputs, located
from ..grid import catalogue
from ..grid.config import Settings
from ..grid.jobs import Ask
from ..pipelines.bulk import BulkReport, embed_parquet
from .local import LOOPBACK, local_cluster
from .pages import grid_html


class Grid:
    """A grid of workers: on this machine, or behind a scheduler's address.

    ``Grid()`` starts a scheduler with our plugins and one worker per core (or per GPU); ``Grid("tcp://host:8786")``
    connects to one that runs. Every call that computes returns a `distributed.Future` at once, so `progress`,
    `as_completed`, `gather` and `wait` of Dask work on it. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        regions: Sequence[str] | None = None,
        region: str | None = None,
        allow_cross_region: bool = True,
        settings: Settings | None = None,
        dashboard_address: str | None = f"{LOOPBACK}:0",
    ) -> None:
        """`workers`, `regions` (dealt out in turn) and `dashboard_address` shape a local grid; see `local_cluster`.

        `region` is where you are: work goes to donors near it, and nowhere else with `allow_cross_region=False`.
        """
        if address is not None and (workers is not None or regions is not None):
            raise ValueError("workers and regions shape a grid that is started here; leave them out with an address")
        self._cluster: SpecCluster | None = None
        if address is None:
            self._cluster = local_cluster(
                workers=workers, regions=regions, settings=settings, dashboard_address=dashboard_address
            )
        try:
            self.client = Client(self._cluster or address, set_as_default=False)
        except BaseException:
            if self._cluster is not None:
                self._cluster.close()
            raise
        self._region, self._allow_cross_region = region, allow_cross_region

    # -- work ---------------------------------------------------------------------------------------------------------

    def embed(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        normalize: bool = True,
        dimensions: int | None = None,
    ) -> Future:
        """A future of an (n, d) float32 array, one vector per text, in order."""
        if not texts:
            raise ValueError("there is nothing to embed: the list of texts is empty")
        [future] = self.map_embed(texts, model=model, normalize=normalize, dimensions=dimensions, batch_size=len(texts))
        return future

    def map_embed(
        self,
        texts: Iterable[str],
        *,
        model: str | None = None,
        normalize: bool = True,
        dimensions: int | None = None,
        batch_size: int = 256,
    ) -> list[Future]:
        """Futures of (n, d) float32 arrays, one per `batch_size` texts, in order: for data that fits in memory.

        For whole datasets use `embed_parquet`, which holds a bounded part of them at a time and can be resumed.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of strings; for one text write [{texts[:20]!r}]")
        name = catalogue.canonical(model, "embedding")
        with self._annotated(Ask(type="embedding", model=name)):
            return [
                self._submit(
                    embed_inputs_only, name, _checked(batch), normalize=normalize, dimensions=dimensions, name="embed"
                )
                for batch in _batched(texts, batch_size)
            ]

    def embed_parquet(self, source: str, target: str, *, column: str, **options: Any) -> BulkReport:
        """Embed a column of a Parquet dataset into a new dataset; resumes where it was stopped.

        See `idlegrid.pipelines.bulk.embed_parquet` for the options and what is guaranteed.
        """
        return embed_parquet(self.client, source, target, column=column, **options)

    def submit(self, function: Callable[..., Any], *args: Any, ask: Ask | None = None, **kwargs: Any) -> Future:
        """Run any function on a worker, as `distributed.Client.submit` does.

        With an `ask` it is placed by the grid's rules (type, region, memory, limits of the donor); without one it is
        a plain Dask task.
        """
        with self._annotated(ask):
            return self._submit(function, *args, **kwargs)

    def map(
        self, function: Callable[..., Any], *iterables: Iterable[Any], ask: Ask | None = None, **kwargs: Any
    ) -> list[Future]:
        """One `submit` for each element, as `distributed.Client.map` does."""
        with self._annotated(ask):
            name = getattr(function, "__name__", "task")
            futures: list[Future] = self.client.map(located(function), *iterables, pure=False, key=_key(name), **kwargs)
            return futures

    def _submit(self, function: Callable[..., Any], *args: Any, name: str = "", **kwargs: Any) -> Future:
        key = _key(name or getattr(function, "__name__", "task"))
        return self.client.submit(located(function), *args, pure=False, key=key, **kwargs)

    def _annotated(self, ask: Ask | None) -> Any:
        if ask is None:
            return dask.annotate()
        if ask.region is None:
            ask = replace(ask, region=self._region, allow_cross_region=self._allow_cross_region)
        return dask.annotate(grid=ask.to_annotation())

    # -- insight ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The grid as one JSON document: workers with state, reason and score; what runs and waits."""
        state: dict[str, Any] = self.client.sync(self.client.scheduler.grid_state)
        return state

    def why(self, task: Future | str) -> dict[str, Any]:
        """Why a task is where it is: for one that waits, every donor with the reason why it may not take it."""
        key = task if isinstance(task, str) else task.key
        why: dict[str, Any] = self.client.sync(self.client.scheduler.grid_why, key=key)
        return why

    @property
    def dashboard_link(self) -> str | None:
        """Address of the page that shows the grid, or None without a dashboard."""
        link: str | None = self.client.dashboard_link
        return link.replace("/status", "/grid") if link else None

    @property
    def address(self) -> str:
        """Address of the scheduler: what another notebook connects to."""
        address: str = self.client.scheduler.address
        return address

    def __repr__(self) -> str:
        return f"<Grid at {self.address}: {len(self.client.scheduler_info(n_workers=-1)['workers'])} workers>"

    def _repr_html_(self) -> str:
        return grid_html(self.address, self.dashboard_link, self.state())

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Disconnect; a grid that was started here ends."""
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@functools.wraps(embed_inputs)
def embed_inputs_only(*args: Any, **kwargs: Any) -> Any:
    """`embed_inputs` without the token counts."""
    return embed_inputs(*args, **kwargs).vectors


def _checked(batch: Iterable[Any]) -> list[str]:
    texts = list(batch)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is {text!r} of type {type(text).__name__}, not a string")
    return texts


def _key(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex}"


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, not {size}")
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
