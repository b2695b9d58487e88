"""One call, two clients: written once as a coroutine, run by `GridClient`, awaited on `AsyncGridClient`."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from .calls import Calls
from .wire import finish, iterate

P = ParamSpec("P")
T = TypeVar("T")


class Blocking(Protocol):
    """A client whose calls return when they are done."""

    _calls: Calls

    def close(self) -> None: ...


class Awaiting(Protocol):
    """A client whose calls are awaited."""

    _calls: Calls

    async def aclose(self) -> None: ...


class call(Generic[P, T]):  # noqa: N801 - reads as a decorator does
    """A method of both clients, out of a coroutine of `Calls`."""

    def __init__(self, written: Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]]) -> None:
        self._written = written

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        return _bound(self._written, client, finish)


class stream(Generic[P, T]):  # noqa: N801
    """The same for what yields."""

    def __init__(self, written: Callable[Concatenate[Calls, P], AsyncGenerator[T, None]]) -> None:
        self._written = written

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        return _bound(self._written, client, iterate)


def _bound(written: Callable[..., Any], client: Any, run: Callable[[Any], Any]) -> Callable[..., Any]:
    """`written` for this client: as it is where its calls are awaited, else run to its end."""
    if client is None:
        return written  # on the class: for `help`
    method: Callable[..., Any] = types.MethodType(written, client._calls)
    if hasattr(client, "aclose"):
        return method

    @functools.wraps(method)
    def blocking(*args: Any, **kwargs: Any) -> Any:
        return run(method(*args, **kwargs))

    return blocking
