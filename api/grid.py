"""`Grid`: the grid from Python. Starts one on this machine or connects to one; everything is a Dask future."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, Self

import dask
import numpy as np
from dask.utils import funcname
from distributed import Client, Future, SpecCluster
from numpy.typing import NDArray

from ..actors.tasks import embed_inputs, located
from ..grid import catalogue
from ..grid.config import Settings
from ..grid.jobs import Ask
from ..grid.regions import check_region
from ..grid.suggest import did_you_mean
from ..pipelines.bulk import BulkReport, embed_parquet
from .grid_images import GridImages
from .grid_llm import GridLlm
from .grid_speech import GridSpeech
from .grid_stream import GridStream
from .links import ask as ask_scheduler
from .links import connect, page_of
from .local import local_cluster
from .pages import grid_html
from .ports import LOOPBACK

ACTIONS = ("pause", "resume", "drain")


class Grid(GridLlm, GridSpeech, GridImages, GridStream):
    """A grid of workers: on this machine, or behind a scheduler's address.

    ``Grid()`` starts a scheduler with our plugins and one worker per core (or per GPU); ``Grid("tcp://host:8786")``
    connects to one that runs. Every call that computes returns a `distributed.Future` at once, so `progress`,
    `as_completed`, `gather` and `wait` of Dask work on it. Use it as a context manager, or call `close`.

    In a script a grid is started under ``if __name__ == "__main__":``, since each worker process imports the script.
    """

    client: Client
    """The Dask client behind it, for all that is not here."""

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        regions: Sequence[str] | None = None,
        region: str | None = None,
        allow_cross_region: bool = True,
        settings: Settings | None = None,
        cache_salt: str | None = None,
        dashboard_address: str | None = f"{LOOPBACK}:0",
    ) -> None:
        """`workers`, `regions` (dealt out in turn) and `dashboard_address` shape a local grid; see `local_cluster`.

        `region` is where you are: work goes to donors near it, and nowhere else with `allow_cross_region=False`.
        `cache_salt`: prompts share cached prefixes only with those that have the same salt; None: one for this user on
        this machine, "": that of services whose clients all share (setting `api.share_prefixes`).
        Raises ConnectionError when nobody answers at `address`; see `local_cluster` for a local grid's errors.
        """
        if region is not None:
            check_region(region)
        elif not allow_cross_region:
            raise ValueError("allow_cross_region=False needs a region in which the work has to stay")
        if address is not None and (workers is not None or regions is not None):
            raise ValueError("workers and regions shape a grid that is started here; leave them out with an address")
        super().__init__(cache_salt)
        self._cluster: SpecCluster | None = None
        if address is None:
            self._cluster = local_cluster(
                workers=workers, regions=regions, settings=settings, dashboard_address=dashboard_address
            )
        try:
            self.client = connect(address, settings=settings) if address is not None else Client(self._cluster)
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

        For whole datasets use `embed_parquet`, which holds a bounded part of them at a time and can be resumed. Raises
        TypeError when something else than a string is among them.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of strings; for one text write [{texts[:20]!r}]")
        name = catalogue.canonical(model, "embedding")
        options = {"normalize": normalize, "dimensions": dimensions}
        with self._annotated(Ask(type="embedding", model=name)):
            return [
                self._submit(vectors_of, name, batch, name="embed", **options)
                for batch in _batched(_checked(texts), batch_size)
            ]

    def embed_parquet(self, source: str, target: str, *, column: str, **options: Any) -> BulkReport:
        """Embed a column of a Parquet dataset into a new dataset; resumes where it was stopped.

        See `idlegrid.pipelines.bulk.embed_parquet` for the options and what is guaranteed.
        """
        self._make_way()
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
            options = {"pure": False, "key": funcname(function)} | kwargs
            futures: list[Future] = self.client.map(located(function), *iterables, **options)
            return futures

    def _submit(self, function: Callable[..., Any], *args: Any, name: str = "", **kwargs: Any) -> Future:
        key = f"{name or funcname(function)}-{uuid.uuid4().hex}"
        return self.client.submit(located(function), *args, **{"pure": False, "key": key} | kwargs)

    def _annotated(self, ask: Ask | None) -> Any:
        if ask is None:
            return dask.annotate()
        self._make_way()
        if ask.region is None:
            ask = replace(ask, region=self._region, allow_cross_region=self._allow_cross_region)
        return dask.annotate(grid=ask.to_annotation())

    # -- insight ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The grid as one JSON document: workers with state, reason and score; what runs and waits."""
        return ask_scheduler(self.client, "grid_state")

    def why(self, task: Future | str) -> dict[str, Any]:
        """Why a task is where it is: for one that waits, every donor with the reason why it may not take it."""
        key = task if isinstance(task, str) else task.key
        return ask_scheduler(self.client, "grid_why", key=key)

    def control(self, worker: str, action: str) -> dict[str, Any]:
        """Tell a worker, by its id or name, to ``pause``, ``resume`` or ``drain``; returns its row of `state`.

        What runs there goes on. Raises LookupError for a worker that is not here, ValueError for another action.
        """
        if action not in ACTIONS:
            raise ValueError(f"unknown action {action!r}: one of {', '.join(ACTIONS)}")
        rows = self.state()["workers"]
        ids = {row["name"]: row["id"] for row in rows} | {row["id"]: row["id"] for row in rows}
        if worker not in ids:
            raise LookupError(f"no worker {worker!r} is here.{did_you_mean(worker, ids)}")
        return ask_scheduler(self.client, "grid_control", donor=ids[worker], action=action)

    @property
    def dashboard_link(self) -> str | None:
        """Address of the page that shows the grid, or None without a dashboard."""
        return page_of(self.client.dashboard_link)

    @property
    def address(self) -> str:
        """Address of the scheduler: what another notebook connects to."""
        address: str = self.client.scheduler.address
        return address

    def __repr__(self) -> str:
        if self.client.status != "running":
            return f"<Grid: {self.client.status}>"
        return f"<Grid at {self.address}: {len(self.client.scheduler_info(n_workers=-1)['workers'])} workers>"

    def _repr_html_(self) -> str:
        if self.client.status != "running":
            return f"<b>idlegrid</b> · {self.client.status}"
        return grid_html(self.address, self.dashboard_link, self.state())

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Disconnect; a grid that was started here ends."""
        self._close_llm()
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def vectors_of(model: str, texts: list[str], *, normalize: bool, dimensions: int | None) -> NDArray[np.float32]:
    """What a worker does with one batch: (n, d) float32, in order."""
    return embed_inputs(model, texts, normalize=normalize, dimensions=dimensions).vectors


def _checked(texts: Iterable[Any]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is of type {type(text).__name__}, not a string")
        yield text


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, not {size}")
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
