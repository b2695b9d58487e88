"""Models that stay: loaded once per worker process by whoever needs them first, kept until the memory is needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from .embedding import EmbeddingModel

M = TypeVar("M")

MAX_RESIDENT = 2
"""Models of one kind that one process keeps; the least recently used one goes first."""


class Residents(Generic[M]):
    """A bounded cache of loaded models. Loading is single flight: whoever comes second waits for the first one's."""

    def __init__(
        self,
        load: Callable[..., M],
        *,
        limit: int = MAX_RESIDENT,
        serves: Callable[[M, dict[str, str], dict[str, str]], bool] = lambda model, asked, loaded_with: False,
        loaded: Callable[[str], None] = lambda model: None,
        unloaded: Callable[[str], None] = lambda model: None,
    ) -> None:
        """`load(model, **options)` makes a model; `loaded` and `unloaded` hear of every arrival and departure.

        `serves` says whether a model that was loaded with some options is also what others ask for.
        """
        self._load, self._limit, self._loaded, self._unloaded = load, limit, loaded, unloaded
        self._serves = serves
        self._models: OrderedDict[tuple[str, ...], Future[M]] = OrderedDict()
        self._options: dict[tuple[str, ...], dict[str, str]] = {}
        self._lock = threading.Lock()

    def get(self, model: str, **options: str) -> M:
        """The model, loaded now if it is not resident. A failed load raises for all who waited, and is tried anew."""
        with self._lock:
            key = self._resident(_key(model, options), options)
            future = self._models.get(key)
            mine = future is None
            if future is None:
                future = self._models[key] = Future()
                self._options[key] = options
            self._models.move_to_end(key)
        if mine:
            self._fill(key, future, model, options)
        return future.result()

    def drop(self, model: str, gone: M, **options: str) -> None:
        """Forget a model that can't be used any more, unless somebody else has replaced it already."""
        key = _key(model, options)
        with self._lock:
            future = self._models.get(key)
            if future is not None and future.done() and future.exception() is None and future.result() is gone:
                del self._models[key], self._options[key]

    def forget(self, model: str) -> None:
        """Let go of a model however it was loaded: something else of this process serves it from now on."""
        with self._lock:
            for key in [key for key, future in self._models.items() if key[0] == model and future.done()]:
                del self._models[key], self._options[key]

    def _resident(self, key: tuple[str, ...], options: dict[str, str]) -> tuple[str, ...]:
        """The key of a loaded model that serves these options, or the key itself."""
        for other, future in self._models.items():
            ready = other[0] == key[0] and future.done() and future.exception() is None
            if ready and self._serves(future.result(), options, self._options[other]):
                return other
        return key

    def _fill(self, key: tuple[str, ...], future: Future[M], model: str, options: dict[str, str]) -> None:
        self._make_room()
        try:
            future.set_result(self._load(model, **options))
        except BaseException as error:
            with self._lock:
                self._models.pop(key, None)
                self._options.pop(key, None)
            future.set_exception(error)
            raise
        self._loaded(model)

    def _make_room(self) -> None:
        """Let go of the least recently used models beyond the limit; one that is being loaded stays."""
        gone: list[str] = []
        with self._lock:
            for key in list(self._models):
                if len(self._models) <= self._limit:
                    break
                if self._models[key].done():
                    del self._models[key], self._options[key]
                    gone.append(key[0])
            kept = {key[0] for key in self._models}
        for model in gone:
            if model not in kept:
                self._unloaded(model)


def _key(model: str, options: Mapping[str, str]) -> tuple[str, ...]:
    return (model, *(f"{name}={value}" for name, value in sorted(options.items())))


def tell_donor(event: str, model: str) -> None:
    """Tell the scheduler, by way of the donor plugin of the Dask worker that runs us, if one does."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # not on a worker
        return
    plugin = worker.plugins.get("idlegrid-donor")
    if plugin is not None:
        getattr(plugin, event)(model)


def _is_as_asked(model: EmbeddingModel, asked: dict[str, str], loaded_with: dict[str, str]) -> bool:
    """What `auto` chose is also what somebody gets who names it; `auto` itself is only served by `auto`."""
    chosen = {"dtype": model.facts.dtype, "backend": model.facts.backend}
    return all(value in (loaded_with[name], chosen.get(name)) for name, value in asked.items())


def _load_embedding_model(model: str, *, dtype: str, device: str, backend: str) -> EmbeddingModel:
    from .embedding import EmbeddingModel  # torch takes seconds to import: only a process that computes pays for it

    return EmbeddingModel(model, dtype=dtype, device=device, backend=backend)


_embedding_models: Residents[EmbeddingModel] = Residents(
    _load_embedding_model,
    serves=_is_as_asked,
    loaded=lambda model: tell_donor("loaded", model),
    unloaded=lambda model: tell_donor("unloaded", model),
)


def embedding_model(model: str, *, dtype: str = "auto", device: str = "auto", backend: str = "auto") -> EmbeddingModel:
    """The resident embedding model of this process, loaded at the first call. See `EmbeddingModel` for the options."""
    return _embedding_models.get(model, dtype=dtype, device=device, backend=backend)
